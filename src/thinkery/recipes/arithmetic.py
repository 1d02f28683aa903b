"""What a decoder takes to learn and to sample, from its shape and the settings: numbers, bytes, operations.

Shared by the plan for one machine (`plan.py`), the simulation of many (`cluster.py`) and what is measured before a plan
(`probe.py`). `train/held.py:held_bytes` says what learning holds of weights. A multiplication and the addition after it
are two operations.
"""

from __future__ import annotations

import math

import torch

from thinkery.model.lora import Lora
from thinkery.model.transformer import Shape
from thinkery.train.held import held_bytes, parts_of
from thinkery.train.optim import LearnerConfig, PolicyConfig


def parameters(shape: Shape) -> int:
    """How many numbers a decoder of this shape has, norms and biases left out."""
    D, E = shape.hidden_size, shape.head_dim
    attention = 2 * D * E * (shape.num_attention_heads + shape.num_key_value_heads)
    layers = shape.num_hidden_layers * (attention + 3 * D * shape.intermediate_size)
    return layers + shape.vocab_size * D * (1 if shape.tie_word_embeddings else 2)


def adapter_parameters(shape: Shape, lora: Lora) -> int:
    """How many numbers its adapters have: two matrices for each layer that is adapted."""
    D, F = shape.hidden_size, shape.intermediate_size
    Q, K = (heads * shape.head_dim for heads in (shape.num_attention_heads, shape.num_key_value_heads))
    ends = {"q_proj": D + Q, "k_proj": D + K, "v_proj": D + K, "o_proj": Q + D}
    ends |= {"gate_proj": D + F, "up_proj": D + F, "down_proj": F + D}
    adapted = sum(ends.get(name, 0) for name in set(lora.targets))
    head = D + shape.vocab_size if "lm_head" in lora.targets else 0
    return lora.rank * (shape.num_hidden_layers * adapted + head)


def learner_bytes(
    shape: Shape,
    policy: LearnerConfig,
    ranks: int = 1,
    *,
    reference: bool = False,
    sampled: int = 0,
    compiled: bool = False,
) -> tuple[float, float]:
    """Bytes on the accelerator and bytes in the host's memory that each of so many ranks holds as long as it learns.

    `held_bytes` for every parameter, with `sampled` bytes a number where engines sample; beside these adapters with
    gradients and moments, the frozen `reference`, and the weights once more in bfloat16 where these are multiplied:
    those of one product, also transposed, where `compiled` functions do it.
    """
    P, parts, lora = parameters(shape), parts_of(policy, ranks), lora_of(policy)
    there, host = (each * P for each in held_bytes(policy, parts, sampled=sampled))
    if compiled:
        there += 2 * 2 * shape.hidden_size * max(shape.vocab_size, 2 * shape.intermediate_size)
    elif policy.dtype == "bfloat16" and not narrow_of(policy):
        there += 2 * P
    if lora:
        return there + (20 if reference else 16) * adapter_parameters(shape, lora), host
    frozen = weight_bytes(policy) * P / parts if reference else 0.0
    return (there, host + frozen) if offloads(policy) and parts > 1 else (there + frozen, host)


def checkpoint_bytes(shape: Shape, policy: LearnerConfig, *, reference: bool = False) -> float:
    """Bytes of a checkpoint: the weights that learn, their two moments, and the `reference`'s."""
    learning = adapter_parameters(shape, lora) if (lora := lora_of(policy)) else parameters(shape)
    return (4 if reference else 3) * weight_bytes(policy) * learning


def weight_bytes(policy: LearnerConfig) -> int:
    """Bytes of a number of the weights, of their moments, and of the model that they become."""
    return 2 if narrow_of(policy) else 4


def activation_bytes(
    shape: Shape,
    policy: LearnerConfig,
    longest: float = 0.0,
    ranks: int = 1,
    update: float = math.inf,
    *,
    compiled: bool = False,
    gpu: bool = False,
) -> float:
    """What a backward pass must remember of one micro-batch on each of so many ranks: per layer two norms, two
    residuals, projections and the feed-forward's four products; and three copies of a chunk of logits. `compiled`
    functions (`train/mixed.py`) make norms and half of the feed-forward again, and keep one copy of logits.

    A micro-batch has no more tokens than an `update`, and a sequence of `longest` tokens stands alone where it has
    fewer; ranks that split sequences have a part of it each. Where activations are recomputed, these are of one layer,
    and every layer's input. Within a tenth of what PyTorch keeps of our decoder, in either format
    (`tests/recipes/test_arithmetic.py`).
    """
    alone = longest / (parts_of(policy, ranks) if splits(policy) else 1)
    tokens = max(min(policy.micro_batch_tokens, update), alone)
    D, E, F = shape.hidden_size, shape.head_dim, shape.intermediate_size
    H, K = shape.num_attention_heads, shape.num_key_value_heads
    chunk = policy.logits_on(torch.device("cuda" if gpu else "cpu"))
    size = 2 if policy.dtype == "bfloat16" else 4  # of what products take and give; norms and residuals are float32
    if compiled:
        layer = 4 * (2 * D + H) + size * (2 * E * (H + K) + 2 * F)
    else:
        layer = 4 * 5 * D + size * (3 * E * (H + K) + 4 * F)
    kept = shape.num_hidden_layers * 4 * D + layer if recomputes(policy) else shape.num_hidden_layers * layer
    return tokens * kept + (size if compiled else 12.0) * min(chunk, tokens * shape.vocab_size)


def learning_flops(shape: Shape, policy: LearnerConfig, length: float, *, reference: bool = False) -> float:
    """Operations of learning one token of a sequence of this length: forward, back, and forward in a `reference`."""
    P, attention, lora = parameters(shape), attention_flops(shape, length), lora_of(policy)
    learnt, frozen = (adapter_parameters(shape, lora), P) if lora else (P, 0)
    forward = 2 * (frozen + learnt) + attention / 3
    back = 2 * frozen + 4 * learnt + 2 * attention / 3
    again = forward if recomputes(policy) else 0.0
    return forward + again + back + (2 * P + attention / 3 if reference else 0.0)


def attention_flops(shape: Shape, length: float) -> float:
    """Forward and back through causal attention, for one token that sees half of `length`."""
    return 6 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * length


def micro_batches(policy: LearnerConfig, tokens: float, length: float) -> float:
    """How many micro-batches so many tokens make, in sequences of this length."""
    return tokens / max(policy.micro_batch_tokens, length)


def cache_bytes(shape: Shape, size: int = 4) -> int:
    """Keys and values of one token, of so many bytes each."""
    return 2 * size * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim


def in_format(dtype: str, flops: float, bfloat16_flops: float) -> tuple[float, int]:
    """Operations a second in a format, and its bytes a number, given those in float32 and in bfloat16 (0: none).

    "fastest" and "model" are what engines mean by them.
    """
    if bfloat16_flops and dtype in ("bfloat16", "fastest"):
        return bfloat16_flops, 2
    return flops, 4


def recomputes(policy: LearnerConfig) -> bool:
    """Whether backward passes compute every block again."""
    return isinstance(policy, PolicyConfig) and policy.activations == "recomputed"


def offloads(policy: LearnerConfig) -> bool:
    """Whether the optimizer moves a copy of the weights in the host's memory."""
    return isinstance(policy, PolicyConfig) and policy.offload == "cpu" and policy.lora is None


def splits(policy: LearnerConfig) -> bool:
    """Whether every rank computes a part of each sequence."""
    return isinstance(policy, PolicyConfig) and policy.sequences == "split" and policy.lora is None


def narrow_of(policy: LearnerConfig) -> bool:
    """Whether the weights that learn are bfloat16."""
    return isinstance(policy, PolicyConfig) and policy.weights == "bfloat16"


def lora_of(policy: LearnerConfig) -> Lora | None:
    """The adapters that learn in place of the weights."""
    return policy.lora if isinstance(policy, PolicyConfig) else None
