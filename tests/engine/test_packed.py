"""The packed decoder computes what the decoder computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from thinkery.engine.native.kernels import Compiled
from thinkery.engine.native.packed import OneDnn, PackedTransformer, can_pack
from thinkery.model.attention import packed_causal, positions
from thinkery.model.compiled import compiler
from thinkery.model.transformer import Transformer

LENGTHS = [5, 1, 9]


def built(shape, **changes) -> Transformer:
    network = Transformer(replace(shape, **changes))
    generator = torch.Generator().manual_seed(3)
    network.initialise(generator, std=0.3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:  # norms and biases, which start as ones and zeros
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def logits_of(network) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits by the decoder's own packed path, and by a packed copy."""
    tokens = torch.arange(sum(LENGTHS)) * 7
    if not can_pack(network, torch.float32):
        pytest.skip("no kernels for packed weights on this processor")
    packed = PackedTransformer(network, OneDnn(torch.float32))
    with torch.inference_mode():
        hidden = packed(tokens, positions(LENGTHS), packed_causal(LENGTHS))
        return network.logits(network.packed(tokens, LENGTHS)), packed.logits(hidden)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False, "num_key_value_heads": 1},
        {"family": "qwen2", "attention_bias": True},
        {"family": "qwen3", "qk_norm": True, "head_dim": 16},
        {"attention_bias": True, "output_bias": True, "mlp_bias": True},
    ],
    ids=["llama", "untied", "qwen2", "qwen3", "every bias"],
)
def test_a_packed_copy_gives_the_same_logits(shape, changes):
    expected, found = logits_of(built(shape, **changes))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [OneDnn, Compiled], ids=["plain", "compiled"])
def test_a_packed_copy_in_bfloat16_errs_no_more_than_the_decoder_in_bfloat16(shape, kind):
    network = built(shape, head_dim=16)
    if not can_pack(network, torch.bfloat16):
        pytest.skip("this processor does not multiply in bfloat16")
    if kind is not OneDnn and compiler() is None:
        pytest.skip("no C++ compiler")
    tokens = torch.arange(sum(LENGTHS)) * 7
    exact = network.logits(network.packed(tokens, LENGTHS)).log_softmax(-1)
    packed = PackedTransformer(network, kind(torch.bfloat16))
    with torch.inference_mode():
        ours = packed.logits(packed(tokens, positions(LENGTHS), packed_causal(LENGTHS))).float().log_softmax(-1)
        network.bfloat16()
        plain = network.logits(network.packed(tokens, LENGTHS)).float().log_softmax(-1)
    assert (ours - exact).abs().mean() < 1.25 * (plain - exact).abs().mean()


def test_other_devices_and_formats_are_left_to_the_network_itself(shape):
    assert not can_pack(Transformer(shape), torch.float64)
    assert not can_pack(Transformer(shape).to("meta"), torch.float32)
