"""The compiled kernels compute what PyTorch computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.engine.native.kernels import HEADS, Compiled, threads_for
from thinkery.engine.native.packed import PackedTransformer
from thinkery.engine.native.runner import buffer, places_for
from thinkery.model.compiled import compiler
from thinkery.model.transformer import Transformer

NEAR = {torch.float32: 2e-6, torch.bfloat16: 2e-2}

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 130])
def test_products_of_weights_in_panels_are_those_of_torch(dtype, rows):
    """Outputs that fill panels and not, inputs of one depth and of more; the sums of products are near 1."""
    torch.manual_seed(6)
    do = Compiled(dtype)
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
    panels = Compiled(dtype).linear(torch.randn(112, 2096), None, None)
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_read_whole_and_in_parts_as_the_decoder_reads_them(shape, dtype, kind):
    """Texts of one block of keys and of several, of less and of more tokens than pass together, parts of several texts
    at once; keys and values come with those of one token side by side, and with those of one head."""
    network = drawn(shape, **KINDS[kind])
    packed, near = (
        PackedTransformer(network, Compiled(getattr(torch, dtype))),
        {"float32": 1e-4, "bfloat16": 0.12}[dtype],
    )
    texts = [[(7 * i + n) % 275 for i in range(length)] for n, length in enumerate((70, 701, 1, 300))]
    expected = [network.packed(torch.tensor(text), [len(text)]) / network.model["norm"].weight for text in texts]
    whole = places_for(packed, sum(map(len, texts))).split([len(text) for text in texts], 2)
    ends = [(kv, 0, len(text)) for kv, text in zip(whole, texts, strict=True)]
    found = packed.fused.advance([token for text in texts for token in text], ends)
    assert error(found, torch.cat(expected)) < near
    parts = [buffer(packed, len(text)) for text in texts]
    for spans in (((0, 0, 30), (1, 0, 400)), ((0, 30, 70), (2, 0, 1), (1, 400, 701)), ((3, 0, 300),)):
        tokens = [token for i, done, end in spans for token in texts[i][done:end]]
        found = packed.fused.advance(tokens, [(parts[i], done, end) for i, done, end in spans])
        assert error(found, torch.cat([expected[i][done:end] for i, done, end in spans])) < near
    for one, other in zip(whole, parts, strict=True):
        assert error(one, other) < near


def error(found, expected) -> float:
    """The difference as a share of the length."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("width", HEADS)
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_every_head_width_and_group_has_its_attention(shape, tokenizer, width, group):
    network = drawn(shape, head_dim=width, num_key_value_heads=2, num_attention_heads=2 * group)
    requests = [
        Request((1, 2), Sampling(max_tokens=9), prompt=tuple((n + i) % 250 for i in range(n))) for n in (21, 290)
    ]
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
