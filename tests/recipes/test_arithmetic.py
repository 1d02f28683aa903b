"""What a shape takes by the settings, worked out by hand for a decoder of 2,528 numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.conftest import tiny_tokenizer
from tests.train.test_policy import EXAMPLES, imitation
from torch.autograd.graph import saved_tensors_hooks

from thinkery.model.compiled import compiler
from thinkery.model.lora import Lora, adapt, adapters
from thinkery.model.transformer import Shape, Transformer
from thinkery.recipes.arithmetic import (
    activation_bytes,
    adapter_parameters,
    checkpoint_bytes,
    in_format,
    learner_bytes,
    learning_flops,
    parameters,
    weight_bytes,
)
from thinkery.train.batch import pack
from thinkery.train.mixed import MixedTransformer
from thinkery.train.optim import LearnerConfig, PolicyConfig
from thinkery.train.policy import LoraPolicy, Policy, mixed
from thinkery.train.rounded import narrow

SHAPE = Shape("llama", 100, 8, 16, 3, 2, 1, 4)
P = 3 * (2 * 8 * 4 * (2 + 1) + 3 * 8 * 16) + 100 * 8
A = 2 * 3 * ((8 + 8) + (8 + 4) + (8 + 4) + (8 + 8) + 3 * (8 + 16))
"""Of adapters of rank 2 on all seven matrices of three layers."""
LORA = Lora(rank=2)


def test_parameters_are_counted_layer_by_layer() -> None:
    assert parameters(SHAPE) == P == 2528


@pytest.mark.parametrize("targets", [LORA.targets, ("q_proj", "v_proj"), ("down_proj", "lm_head")])
def test_adapters_have_as_many_numbers_as_in_the_network(targets: tuple[str, ...]) -> None:
    network = Transformer(replace(SHAPE, tie_word_embeddings=False))
    lora = LORA.model_copy(update={"targets": targets})
    network.initialise(torch.Generator().manual_seed(0))
    adapt(network, lora, seed=0)
    assert adapter_parameters(SHAPE, lora) == sum(t.numel() for t in adapters(network).values())
    assert adapter_parameters(SHAPE, LORA) == A == 768


@pytest.mark.parametrize(
    ("policy", "ranks", "reference", "expected"),
    [
        (PolicyConfig(), 1, False, (16 * P, 0)),
        (PolicyConfig(), 4, True, (20 * P, 0)),  # every rank is a replica
        (LearnerConfig(), 1, False, (16 * P, 0)),
        (PolicyConfig(dtype="bfloat16"), 1, False, (18 * P, 0)),
        (PolicyConfig(dtype="bfloat16", weights="bfloat16"), 1, False, (10 * P, 0)),
        (PolicyConfig(dtype="bfloat16", weights="bfloat16"), 1, True, (12 * P, 0)),
        (PolicyConfig(lora=LORA), 1, False, (4 * P + 16 * A, 0)),
        (PolicyConfig(lora=LORA, sharding="fsdp", offload="cpu"), 4, True, (4 * P + 20 * A, 0)),  # adapters win
        (PolicyConfig(sharding="fsdp"), 1, False, (16 * P, 0)),
        (PolicyConfig(sharding="fsdp"), 4, True, (4 * P + 4 * P + P, 0)),
        (PolicyConfig(sharding="fsdp"), 64, False, (0.25 * P, 0)),
        (PolicyConfig(offload="cpu"), 1, True, (12 * P, 12 * P)),
        (PolicyConfig(offload="cpu", sharding="fsdp"), 4, True, (4 * P, 4 * P + P)),
    ],
)
def test_what_a_rank_holds_follows_the_settings(
    policy: LearnerConfig, ranks: int, reference: bool, expected: tuple[float, float]
) -> None:
    sampled = 4 if reference else 0  # what has a reference samples, too
    assert learner_bytes(SHAPE, policy, ranks, reference=reference, sampled=sampled) == expected


def test_compiled_functions_hold_one_product_in_bfloat16() -> None:
    policy = PolicyConfig(dtype="bfloat16")
    assert learner_bytes(SHAPE, policy, compiled=True) == (16 * P + 2 * 2 * 100 * 8, 0)  # the head, both ways


LAYER = 4 * (5 * 8 + 3 * 4 * 3 + 4 * 16)
"""Bytes a token and layer: norms and residuals, projections, the feed-forward."""


@pytest.mark.parametrize(
    ("policy", "longest", "ranks", "tokens", "each"),
    [
        (PolicyConfig(), 0, 1, 64, 3 * LAYER),
        (PolicyConfig(), 50, 1, 64, 3 * LAYER),
        (PolicyConfig(), 1000, 1, 1000, 3 * LAYER),  # stands alone
        (PolicyConfig(), 1000, 4, 1000, 3 * LAYER),
        (PolicyConfig(sharding="fsdp", sequences="split"), 1000, 4, 250, 3 * LAYER),
        (PolicyConfig(sharding="fsdp", sequences="split"), 200, 4, 64, 3 * LAYER),
        (PolicyConfig(activations="recomputed"), 1000, 1, 1000, 3 * 4 * 8 + LAYER),
        (PolicyConfig(dtype="bfloat16"), 1000, 1, 1000, 3 * (4 * 40 + 2 * (3 * 4 * 3 + 4 * 16))),
    ],
)
def test_a_micro_batch_is_remembered_or_the_longest_sequence_where_that_is_longer(
    policy: PolicyConfig, longest: float, ranks: int, tokens: float, each: float
) -> None:
    policy = policy.model_copy(update={"micro_batch_tokens": 64, "logits_chunk": 2000})
    assert activation_bytes(SHAPE, policy, longest, ranks) == tokens * each + 12 * 2000


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16", "weights": "bfloat16"}, {"lora": Lora(rank=16)}])
def test_a_checkpoint_and_a_model_take_what_is_counted(settings: dict, reference: bool, tmp_path: Path) -> None:
    shape, cfg, lora = Shape("llama", 257, 128, 256, 3, 4, 2, 16), PolicyConfig(**settings), settings.get("lora")
    network, tokenizer = Transformer(shape), tiny_tokenizer()
    network.initialise(torch.Generator().manual_seed(0))
    policy = LoraPolicy(network, tokenizer, cfg, lora=lora, seed=0) if lora else Policy(network, tokenizer, cfg)
    policy.update(lambda n: pack(EXAMPLES, n), imitation(policy, EXAMPLES), total=1)
    if reference:
        policy.refresh_reference()
    policy.save(tmp_path)
    policy.save_model(tmp_path / "model")
    sizes = [(tmp_path / name).stat().st_size for name in ("learner.pt", "model/model.safetensors")]
    counted = checkpoint_bytes(shape, cfg, reference=reference), weight_bytes(cfg) * parameters(shape)
    assert sizes == pytest.approx(counted, rel=0.02, abs=60_000)  # names, and how everything is laid out


@pytest.mark.parametrize(("longest", "update", "tokens"), [(0, 1000, 64), (0, 40, 40), (50, 40, 50)])
def test_a_micro_batch_has_no_more_tokens_than_the_update(longest: float, update: float, tokens: float) -> None:
    policy = PolicyConfig(micro_batch_tokens=64, logits_chunk=2000)
    assert activation_bytes(SHAPE, policy, longest, 1, update) == tokens * 3 * LAYER + 12 * 2000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_counted_of_a_layer_is_what_pytorch_keeps(dtype: str) -> None:
    def kept(layers: int, tokens: int) -> int:
        network = Transformer(Shape("llama", 16, 64, 176, layers, 4, 2, 16))
        network.initialise(torch.Generator().manual_seed(0))
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        held: dict[int, torch.UntypedStorage] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = storage  # kept, so that no other tensor gets its address
            return tensor

        narrow = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        with saved_tensors_hooks(note, lambda tensor: tensor), narrow:
            network.packed(torch.arange(tokens) % 16, [tokens])
        return sum(storage.nbytes() for storage in held.values())

    short, long = (kept(3, tokens) - kept(2, tokens) for tokens in (2048, 3072))
    size, each = 2 if dtype == "bfloat16" else 4, (long - short) / 1024
    assert each == pytest.approx(4 * 5 * 64 + size * (3 * 16 * (4 + 2) + 4 * 176), rel=0.1)
    numbers = 2 * 64 * 16 * (4 + 2) + 3 * 64 * 176
    assert short - 2048 * each == pytest.approx(2 * numbers if dtype == "bfloat16" else 0, abs=1)  # the copy


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_what_is_counted_of_compiled_functions_is_what_they_keep(weights: str) -> None:
    shape, policy = Shape("llama", 32, 64, 176, 3, 4, 2, 32), PolicyConfig(dtype="bfloat16", micro_batch_tokens=10**6)

    def kept(tokens: int) -> int:
        network = Transformer(shape)
        network.initialise(torch.Generator().manual_seed(0))
        if weights == "bfloat16":
            narrow(network)
        computing, held = mixed(network, policy), {}
        assert isinstance(computing, MixedTransformer)

        def note(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that no other tensor gets its address
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor):
            hidden_TD = computing.hidden(torch.arange(tokens) % 32, [(1, (tokens - 1,))])
            computing.logprobs(hidden_TD, torch.arange(tokens) % 32, 1.0)
        return sum(tensor.untyped_storage().nbytes() for tensor in held.values())

    counted = [activation_bytes(shape, policy, 0, 1, tokens, compiled=True) for tokens in (1024, 2048)]
    assert (kept(2048) - kept(1024)) / (counted[1] - counted[0]) == pytest.approx(1, abs=0.2)


def test_adapters_save_the_gradient_of_what_is_frozen() -> None:
    attention = 6 * 3 * 2 * 4 * 10
    assert learning_flops(SHAPE, PolicyConfig(), 10) == 6 * P + attention
    assert learning_flops(SHAPE, PolicyConfig(), 10, reference=True) == pytest.approx(8 * P + attention * 4 / 3)
    assert learning_flops(SHAPE, PolicyConfig(lora=LORA), 10) == 4 * P + 6 * A + attention
    recomputed = PolicyConfig(activations="recomputed")
    assert learning_flops(SHAPE, recomputed, 10) == pytest.approx(8 * P + attention * 4 / 3)


def test_a_format_has_its_rate_where_there_is_one() -> None:
    assert [in_format(dtype, 1.0, 4.0) for dtype in ("bfloat16", "fastest", "model", "float32")] == [(4.0, 2)] * 2 + [
        (1.0, 4)
    ] * 2
    assert in_format("bfloat16", 1.0, 0.0) == (1.0, 4)
