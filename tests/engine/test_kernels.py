"""The compiled kernels compute what PyTorch computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.engine.native.attention import after
from thinkery.engine.native.kernels import HEADS, Compiled, threads_for
from thinkery.engine.native.packed import Plain
from thinkery.model.attention import packed_causal
from thinkery.model.compiled import compiler
from thinkery.model.transformer import Transformer

EPS = 1e-5
NEAR = {torch.float32: 2e-6, torch.bfloat16: 2e-2}

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("rows", [1, 9])
def test_what_is_between_products_is_that_of_torch(dtype, rows):
    torch.manual_seed(1)
    ours, plain, near = Compiled(dtype, EPS), Plain(dtype, EPS), {"rtol": NEAR[dtype], "atol": NEAR[dtype]}
    x, added = torch.randn(2, rows, 48).to(dtype)
    torch.testing.assert_close(ours.normed(x), plain.normed(x), **near)
    changed, expected = x.clone(), x.clone()
    torch.testing.assert_close(ours.add_normed(changed, added), plain.add_normed(expected, added), **near)
    assert torch.equal(changed, expected)
    torch.testing.assert_close(ours.gated(x * 30), plain.gated(x * 30), **near)
    heads, angles = torch.randn(rows, 7, 32).to(dtype), torch.randn(rows, 16).repeat(1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    expected = plain.rotated(heads[:, :5], cos, sin)
    torch.testing.assert_close(ours.rotated(heads[:, :5], cos, sin), expected, **near)


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 130])
def test_products_of_weights_in_panels_are_those_of_torch(dtype, rows):
    """Outputs that fill panels and not, inputs of one depth and of more; the sums of products are near 1."""
    torch.manual_seed(6)
    do = Compiled(dtype, EPS)
    for outputs, width in ((16, 32), (275, 48), (64, 2096)):
        x, weight = torch.randn(rows, width).to(dtype), torch.randn(outputs, width) / width**0.5
        scale, bias = torch.rand(width) + 0.5, torch.randn(outputs) if outputs % 16 == 0 else None
        panels = do.linear(weight, scale, bias)
        expected = F.linear(x.float(), (weight * scale).to(dtype).float(), bias)
        torch.testing.assert_close(panels(x).float(), expected, rtol=NEAR[dtype], atol=NEAR[dtype] * 5)
        if bias is None:
            torch.testing.assert_close(panels.logits(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_a_row_comes_out_the_same_to_the_last_bit_whoever_is_beside_it(dtype):
    panels = Compiled(dtype, EPS).linear(torch.randn(112, 2096), None, None)
    x = torch.randn(75, 2096).to(dtype)
    whole = panels.logits(x)
    for begin, end in ((0, 1), (3, 9), (64, 75), (1, 74)):
        assert torch.equal(panels.logits(x[begin:end]), whole[begin:end])


def test_an_engine_samples_the_same_with_either(shape, tokenizer):
    network = Transformer(replace(shape, hidden_size=64, num_attention_heads=4, head_dim=16, intermediate_size=96))
    network.initialise(torch.Generator().manual_seed(3), std=0.3)
    requests = [Request((1, 2), Sampling(max_tokens=12, temperature=0.0), prompt=(n, 5, 7)) for n in (3, 9)]
    said = []
    for kind in ("compiled", "torch"):
        with open_engine(network.eval(), tokenizer, EngineConfig(max_len=64, kernels=kind)) as engine:
            events = dict(generate(engine, requests))
            said.append([[event.completion.tokens for event in events[i]] for i in range(2)])
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize(
    ("width", "heads", "group"), [(16, 1, 8), (32, 2, 3), (64, 3, 1), (80, 1, 3), (96, 2, 1), (128, 1, 4)]
)
def test_parts_of_texts_see_what_is_before_them(dtype, width, heads, group):
    """Texts of one block of keys and of several, whole or from some token on, all queries in one call."""
    torch.manual_seed(4)
    spans = [(0, 70), (300, 701), (5, 6), (256, 300)]
    texts = [torch.randn(2, 2, heads, end, width).to(dtype).transpose(2, 3) for _, end in spans]
    total = sum(end - done for done, end in spans)
    q, k, v = torch.randn(total, (group + 2) * heads, width).to(dtype).split((group * heads, heads, heads), 1)
    ours = [(text.clone(), *span) for text, span in zip(texts, spans, strict=True)]
    out = Compiled(dtype, EPS).after(ours)(1, q, k, v)
    expected = after([(text.float(), *span) for text, span in zip(texts, spans, strict=True)])(
        1, q.float(), k.float(), v.float()
    )
    torch.testing.assert_close(out.float(), expected, rtol=NEAR[dtype], atol=NEAR[dtype])
    torch.testing.assert_close(ours[1][0][0, 1, 300:], k[70:471])
    lengths = [70, 401, 1, total - 472]
    whole = Compiled(dtype, EPS).causal(lengths)(0, q, k, v)
    expected = packed_causal(lengths)(0, q.float(), k.float(), v.float())
    torch.testing.assert_close(whole.float(), expected, rtol=NEAR[dtype], atol=NEAR[dtype])


KINDS = {
    "llama": {},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 1},
    "qwen2": {"family": "qwen2", "attention_bias": True},
    "qwen3": {"family": "qwen3", "qk_norm": True},
    "every bias": {"attention_bias": True, "output_bias": True, "mlp_bias": True},
}


def drawn(shape, **changes) -> Transformer:
    """A network whose norms and biases are no ones and zeros; 275 words are no multiple of anything."""
    network = Transformer(
        replace(shape, **{"head_dim": 16, "vocab_size": 275, "max_position_embeddings": 1100} | changes)
    )
    generator = torch.Generator().manual_seed(3)
    network.initialise(generator, std=0.2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.requires_grad_(False)


def completions(network, tokenizer, requests, **settings) -> tuple[list, list]:
    with open_engine(network, tokenizer, EngineConfig(**settings)) as engine:
        engine.eos_ids = frozenset()
        events = dict(generate(engine, requests))
    found = [event.completion for i in range(len(requests)) for event in events[i]]
    return [one.tokens for one in found], [one.logprobs for one in found]


def expected_of(network, prompt, said) -> torch.Tensor:
    """The log-probabilities that the decoder itself gives a completion."""
    text = torch.tensor([*prompt, *said])
    logits = network.logits(network.packed(text, [len(text)]))[len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_one_call_gives_the_log_probabilities_of_the_decoder(shape, tokenizer, kind):
    """Rows with prompts of their own and shared ones; one prompt is longer than a span."""
    network = drawn(shape, **KINDS[kind])
    prompts = [tuple(range(n, n + length)) for n, length in ((3, 5), (9, 40))] + [tuple(i % 250 for i in range(1030))]
    requests = [
        Request(tuple(range(samples)), Sampling(max_tokens=12), prompt=prompt)
        for prompt, samples in zip(prompts, (1, 3, 2), strict=True)
    ]
    tokens, logprobs = completions(network, tokenizer, requests)
    texts = [
        (prompt, said) for i, prompt in enumerate(prompts) for said in tokens[sum((1, 3, 2)[:i]) :][: (1, 3, 2)[i]]
    ]
    for (prompt, said), found in zip(texts, logprobs, strict=True):
        torch.testing.assert_close(torch.tensor(found), expected_of(network, prompt, said), rtol=0, atol=2e-5)


@pytest.mark.parametrize("width", HEADS)
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_every_head_width_and_group_has_its_attention(shape, tokenizer, width, group):
    network = drawn(shape, head_dim=width, num_key_value_heads=2, num_attention_heads=2 * group)
    requests = [Request((1, 2), Sampling(max_tokens=9), prompt=tuple(range(n, n + 21))) for n in (3, 60)]
    tokens, logprobs = completions(network, tokenizer, requests)
    for prompt, said, found in zip(
        (requests[0].prompt,) * 2 + (requests[1].prompt,) * 2, tokens, logprobs, strict=True
    ):
        torch.testing.assert_close(torch.tensor(found), expected_of(network, prompt, said), rtol=0, atol=2e-5)


def test_packed_weights_follow_the_network_at_a_bump(shape, tokenizer):
    network = drawn(shape)
    request = Request((1,), Sampling(max_tokens=5, temperature=0.0), prompt=(5, 6, 7))
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        engine.eos_ids = frozenset()
        for factor in (1.0, -1.5):
            with torch.no_grad():
                network.model["norm"].weight.mul_(factor)
                network.blocks[1].mlp.down_proj.weight.mul_(factor)
            engine.bump(1)
            [(_, [event])] = generate(engine, [request])
            text = torch.tensor([5, 6, 7, *event.completion.tokens])
            logits = network.logits(network.packed(text, [len(text)]))[2:-1]
            assert logits.argmax(-1).tolist() == list(event.completion.tokens)


def test_small_products_are_left_to_fewer_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert [threads_for(work) for work in (0, 2**23 - 1, 2**23, 2**30)] == [1, 1, 2, 4]
