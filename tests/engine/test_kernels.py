"""The compiled kernels compute what PyTorch computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.engine.native.cache import Cache
from thinkery.engine.native.kernels import HEADS, Compiled
from thinkery.engine.native.packed import Plain
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
