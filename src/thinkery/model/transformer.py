"""One decoder for training and sampling: the Llama, Qwen2 and Qwen3 families.

The network works on a flat list of T tokens from any number of sequences and knows nothing of batches,
padding or caches: how tokens see each other is the caller's `attend`. The trainer passes packed causal
attention (`model/attention.py`), the engine attention over its cache. Parameters carry the names of
Hugging Face's state dicts, so weights go in and out unchanged.

Shapes: T tokens, D width, H query heads, K key/value heads, E head width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from thinkery.model.attention import Attend, packed_causal, positions


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that define a decoder; the fields are those of Hugging Face's config.json."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    """Biases on q, k and v (Qwen2; Llama's rare variant also has one on o)."""
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS norm of every query and key head before rotation (Qwen3)."""


class Transformer(nn.Module):
    """A decoder-only language model; `forward` gives hidden states, `logits` the head, so callers can chunk it."""

    longest = 0
    """Tokens of the longest sequence that it computes; 0 for any."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(shape.vocab_size, shape.hidden_size),
                "layers": nn.ModuleList(Block(shape, i) for i in range(shape.num_hidden_layers)),
                "norm": nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps),
            }
        )
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self._tie()
        self.through: Callable[..., Tensor] = kept
        """How tokens pass a block: `kept`, or `recomputed` to learn in less memory."""
        self.frequencies: Tensor
        self.register_buffer("frequencies", rope_frequencies(shape), persistent=False)

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Hidden states hidden_TD after the final norm."""
        x_TD = self.model["embed_tokens"](tokens_T).to(self.residual)
        cos_TE, sin_TE = self.rotations(positions_T, x_TD.dtype)
        for block in self.blocks:
            x_TD = self.through(block, x_TD, cos_TE, sin_TE, attend)
        return self.model["norm"](x_TD)

    @property
    def residual(self) -> torch.dtype:
        """The format in which blocks add up what they find: that of the norms, which may be wider than matrices'."""
        return cast(nn.RMSNorm, self.model["norm"]).weight.dtype

    @property
    def blocks(self) -> nn.ModuleList:
        """Its layers, in order."""
        return cast(nn.ModuleList, self.model["layers"])

    def packed(self, tokens_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """hidden_TD of sequences laid end to end, each causal and blind to the others; what the trainer calls."""
        return self(tokens_T, positions(lengths, tokens_T.device), packed_causal(lengths, tokens_T.device))

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Next-token logits logits_TV."""
        return self.lm_head(hidden_TD)

    def rotations(self, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin of every position, computed in fp32 as Hugging Face does."""
        angles = positions_T.float()[:, None] * self.frequencies[None, :]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Transformer:
        # `.to(bfloat16)` casts buffers too, which would bend the angles of far positions; `.to_empty` blanks
        # them and parts tied weights.
        super()._apply(fn, recurse)
        self._tie()
        self.frequencies = rope_frequencies(self.shape).to(self.lm_head.weight.device)
        return self

    def _tie(self) -> None:
        if self.shape.tie_word_embeddings:
            self.lm_head.weight = cast(nn.Embedding, self.model["embed_tokens"]).weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, std: float = 0.02) -> None:
        """Fresh weights: normal with `std`, residual outputs scaled by 1/sqrt(2·layers) (GPT-2)."""
        residual = std / math.sqrt(2 * self.shape.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0.0, residual if out else std, generator=generator)


class Block(nn.Module):
    """Attention, then the gated feed-forward, each on a normed residual."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(shape, layer)
        self.mlp = FeedForward(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)

    def forward(self, x_TD: Tensor, cos_TE: Tensor, sin_TE: Tensor, attend: Attend) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), cos_TE, sin_TE, attend)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


def kept(block: Block, *inputs: Any) -> Tensor:
    """What the block makes; all that its backward pass needs stays in memory."""
    return block(*inputs)


def recomputed(block: Block, *inputs: Any) -> Tensor:
    """The same; only its inputs stay, from which the backward pass computes it again (activation checkpointing)."""
    return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)


class Attention(nn.Module):
    """Grouped-query projections and rotation around the caller's `attend`."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        D, E = shape.hidden_size, shape.head_dim
        self.layer, self.head_dim = layer, E
        self.q_proj = nn.Linear(D, shape.num_attention_heads * E, bias=shape.attention_bias)
        self.k_proj = nn.Linear(D, shape.num_key_value_heads * E, bias=shape.attention_bias)
        self.v_proj = nn.Linear(D, shape.num_key_value_heads * E, bias=shape.attention_bias)
        self.o_proj = nn.Linear(shape.num_attention_heads * E, D, bias=shape.output_bias)
        if shape.qk_norm:
            self.q_norm = nn.RMSNorm(E, eps=shape.rms_norm_eps)
            self.k_norm = nn.RMSNorm(E, eps=shape.rms_norm_eps)
        self.qk_norm = shape.qk_norm

    def forward(self, x_TD: Tensor, cos_TE: Tensor, sin_TE: Tensor, attend: Attend) -> Tensor:
        heads = (x_TD.shape[0], -1, self.head_dim)
        q_THE, k_TKE, v_TKE = (
            self.q_proj(x_TD).view(heads),
            self.k_proj(x_TD).view(heads),
            self.v_proj(x_TD).view(heads),
        )
        if self.qk_norm:
            q_THE, k_TKE = self.q_norm(q_THE), self.k_norm(k_TKE)
        q_THE, k_TKE = rotate(q_THE, cos_TE, sin_TE), rotate(k_TKE, cos_TE, sin_TE)
        out_THE = attend(self.layer, q_THE, k_TKE, v_TKE)
        return self.o_proj(out_THE.reshape(x_TD.shape[0], -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        D, F_ = shape.hidden_size, shape.intermediate_size
        self.gate_proj = nn.Linear(D, F_, bias=shape.mlp_bias)
        self.up_proj = nn.Linear(D, F_, bias=shape.mlp_bias)
        self.down_proj = nn.Linear(F_, D, bias=shape.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))


def rotate(x_TNE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Rotary position embedding, the half-split layout of Hugging Face's Llama."""
    first, second = x_TNE.chunk(2, dim=-1)
    return x_TNE * cos_TE[:, None] + torch.cat((-second, first), dim=-1) * sin_TE[:, None]


def rope_frequencies(shape: Shape) -> Tensor:
    """Angular frequency of every pair of channels, with Llama 3's long-context scaling where configured."""
    E = shape.head_dim
    base = 1.0 / shape.rope_theta ** (torch.arange(0, E, 2, dtype=torch.int64).float() / E)
    scaling = shape.rope_scaling
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return base
    if kind == "linear":
        return base / float(scaling["factor"])
    if kind == "llama3":
        factor, low, high = (float(scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
        wavelength = 2 * math.pi / base
        turns = float(scaling["original_max_position_embeddings"]) / wavelength
        smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        return base / factor * (1 - smooth) + base * smooth
    raise ValueError(f"rope scaling {kind!r} is not supported")
