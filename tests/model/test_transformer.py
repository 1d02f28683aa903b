"""The decoder itself: packing, gradients, rotation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from thinkery.model.transformer import Transformer, rope_frequencies


def test_packed_sequences_do_not_see_each_other(build, shape):
    network = build(shape)
    tokens = torch.arange(12)
    together = network.packed(tokens, [3, 5, 4])
    apart = torch.cat([network.packed(part, [len(part)]) for part in tokens.split([3, 5, 4])])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def test_a_token_does_not_see_what_follows(build, shape):
    network = build(shape)
    first, second = torch.tensor([5, 6, 7, 8]), torch.tensor([5, 6, 7, 200])
    torch.testing.assert_close(network.packed(first, [4])[:3], network.packed(second, [4])[:3])


def test_gradients_reach_every_parameter(build, shape):
    network = build(replace(shape, tie_word_embeddings=False))
    network.logits(network.packed(torch.arange(9), [4, 5])).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_tied_head_is_one_parameter(shape):
    network = Transformer(shape)
    assert "lm_head.weight" not in dict(network.named_parameters())


def test_fresh_weights_follow_the_generator_and_shrink_residual_outputs(shape):
    one, two = Transformer(shape), Transformer(shape)
    for network in (one, two):
        network.initialise(torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    weights = dict(one.named_parameters())
    assert weights["model.embed_tokens.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["model.layers.0.self_attn.o_proj.weight"].std().item() == pytest.approx(0.02 / math.sqrt(4), rel=0.1)
    assert torch.equal(weights["model.norm.weight"], torch.ones(32))


def test_rotation_frequencies_are_powers_of_theta(shape):
    expected = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(rope_frequencies(shape), expected)
    linear = replace(shape, rope_scaling={"rope_type": "linear", "factor": 4.0})
    torch.testing.assert_close(rope_frequencies(linear), expected / 4)
