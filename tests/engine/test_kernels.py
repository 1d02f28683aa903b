"""The compiled kernels compute what PyTorch computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.engine.native.attention import after
from thinkery.engine.native.cache import Cache
from thinkery.engine.native.few import MOST, FewRows, most_rows, patience
from thinkery.engine.native.kernels import HEADS, Compiled
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
    ours, plain, near = Compiled(dtype, EPS), Plain(EPS), {"rtol": NEAR[dtype], "atol": NEAR[dtype]}
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


def caches(shape, slots: int) -> tuple[Cache, Cache]:
    """Prompts of up to 11 tokens in 2 slots, and room for 21 tokens of every row."""
    prompts, own = (Cache(shape, torch.float32, torch.device("cpu")) for _ in range(2))
    prompts.resize(2, 11)
    own.resize(slots, 21)
    for store in (*prompts.keys, *prompts.values, *own.keys, *own.values):
        store.normal_()
    return prompts, own


@pytest.mark.parametrize("width", HEADS)
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_attention_runs_over_a_shared_prompt_and_what_the_row_said(shape, width, group):
    torch.manual_seed(2)
    K, rows = 2, 5
    prompts, own = caches(replace(shape, num_key_value_heads=K, head_dim=width), rows)
    slots, shared, places = (
        torch.tensor([0, 0, 1, 1, 0]),
        torch.tensor([11, 11, 4, 4, 0]),
        torch.tensor([0, 20, 3, 7, 8]),
    )
    q, k, v = (torch.randn(rows, heads, width) for heads in (group * K, K, K))
    out = Compiled(torch.float32, EPS).over_caches(prompts, own, slots, shared, places)(1, q, k, v)
    for row, (slot, n, place) in enumerate(zip(slots, shared, places, strict=True)):
        torch.testing.assert_close(own.keys[1][row, :, place], k[row])
        keys = torch.cat((prompts.keys[1][slot, :, :n], own.keys[1][row, :, : place + 1]), dim=1)
        values = torch.cat((prompts.values[1][slot, :, :n], own.values[1][row, :, : place + 1]), dim=1)
        scores = q[row].view(K, group, width) @ keys.mT / width**0.5
        torch.testing.assert_close(out[row], (scores.softmax(-1) @ values).flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_a_row_comes_out_the_same_to_the_last_bit_whoever_is_beside_it(shape):
    prompts, own = caches(replace(shape, num_key_value_heads=1, head_dim=32), 8)
    slots, shared, places = torch.zeros(8, dtype=torch.int64), torch.full((8,), 9), torch.arange(8) + 3
    q, k, v = torch.randn(8, 4, 32), torch.randn(8, 1, 32), torch.randn(8, 1, 32)
    do = Compiled(torch.float32, EPS)
    whole = do.over_caches(prompts, own, slots, shared, places)(0, q, k, v)
    some = do.over_caches(prompts, own, slots[:3], shared[:3], places[:3])(0, q[:3], k[:3], v[:3])
    assert torch.equal(whole[:3], some)


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


def test_a_text_of_several_spans_is_attended_to_as_a_whole(shape):
    """1,300 tokens of a prompt and 600 of its own are four spans of 512; the border of the two lies within one."""
    one = replace(shape, num_key_value_heads=2, head_dim=32)
    prompts, own = (Cache(one, torch.float32, torch.device("cpu")) for _ in range(2))
    prompts.resize(1, 1300)
    own.resize(2, 700)
    for store in (*prompts.keys, *prompts.values, *own.keys, *own.values):
        store.normal_()
    shared, places = torch.tensor([1300, 0]), torch.tensor([599, 3])
    q, k, v = torch.randn(2, 6, 32), torch.randn(2, 2, 32), torch.randn(2, 2, 32)
    out = Compiled(torch.float32, EPS).over_caches(prompts, own, torch.zeros(2, dtype=torch.int64), shared, places)(
        0, q, k, v
    )
    for row in range(2):
        keys = torch.cat((prompts.keys[0][0, :, : shared[row]], own.keys[0][row, :, : places[row] + 1]), dim=1)
        values = torch.cat((prompts.values[0][0, :, : shared[row]], own.values[0][row, :, : places[row] + 1]), dim=1)
        scores = q[row].view(2, 3, 32) @ keys.mT / 32**0.5
        torch.testing.assert_close(out[row], (scores.softmax(-1) @ values).flatten(0, 1), rtol=1e-5, atol=1e-5)


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
        text = torch.tensor([*prompt, *said])
        logits = network.logits(network.packed(text, [len(text)]))[len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=2e-5)


def test_one_call_reads_the_weights_where_they_are_and_follows_them_at_a_bump(shape, tokenizer):
    network = drawn(shape)
    request = Request((1,), Sampling(max_tokens=5, temperature=0.0), prompt=(5, 6, 7))
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        engine.eos_ids = frozenset()
        list(generate(engine, [request]))
        few = engine.network.few.made
        assert few.head.data_ptr() == network.lm_head.weight.data_ptr()
        assert few.layers[0][0].data_ptr() == network.blocks[0].self_attn.q_proj.weight.data_ptr()
        for factor in (1.0, -1.5):
            with torch.no_grad():
                network.model["norm"].weight.mul_(factor)
                network.blocks[1].mlp.down_proj.weight.mul_(factor)
            engine.bump(1)
            [(_, [event])] = generate(engine, [request])
            text = torch.tensor([5, 6, 7, *event.completion.tokens])
            logits = network.logits(network.packed(text, [len(text)]))[2:-1]
            assert logits.argmax(-1).tolist() == list(event.completion.tokens)


def test_how_many_rows_are_few_depends_on_the_network(shape, monkeypatch):
    """275 x 32 numbers of embeddings, two layers of 12,352 and a norm are 33,536 weights."""
    assert most_rows(drawn(shape)) == MOST
    few = FewRows(drawn(shape), torch.float32)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert [few.threads(rows) for rows in (1, 250, 251, 10_000)] == [1, 1, 2, 4]  # 2**23 / 33,536 is 250.1
    for operations, rows in ((100_000, 2), (1_000, 1)):
        monkeypatch.setattr("thinkery.engine.native.few.OPERATIONS", operations)
        assert most_rows(drawn(shape)) == rows


def test_weights_in_another_format_are_copied_once_that_is_worth_it(shape, tokenizer, monkeypatch):
    """Steps of few rows since the weights changed: three without the copy, then with it; the first token needs none."""
    network = drawn(shape)
    monkeypatch.setattr("thinkery.engine.native.few.SMALL", 1000)
    assert patience(network, torch.float32) == 0
    assert patience(network, torch.bfloat16) == 32
    monkeypatch.setattr("thinkery.engine.native.few.PATIENCE", 3)
    with open_engine(network, tokenizer, EngineConfig(dtype="bfloat16")) as engine:
        engine.eos_ids = frozenset()
        for version in range(2):
            engine.bump(version)
            engine.submit(Request((1,), Sampling(max_tokens=9), prompt=(5, 6, 7)))
            made = []
            while not made or engine.scheduler.rows:
                engine.step()
                made.append(engine.network.few.made is not None)
            assert made == [False] * 4 + [True] * 5
    monkeypatch.setattr("thinkery.engine.native.few.LARGE", 2000)
    assert patience(network, torch.bfloat16) is None
