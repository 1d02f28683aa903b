"""The decoder as it samples on a CPU: the arithmetic of `model/transformer.py` over weights packed for this processor.

Weights are laid out beforehand in the order they are multiplied in, for our own functions (`kernels.py`, and `fused.py`
for all layers in one call) or, where there are none, for oneDNN's. The packed copy takes as much memory as the weights
in its format and is made anew when they change. Nothing here can be differentiated.

Shapes: T tokens, D width, O outputs, H query heads, K key/value heads, N = H + K, E head width, F feed-forward width.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinkery.engine.native.fused import Fused
from thinkery.engine.native.kernels import Compiled
from thinkery.model.attention import Attend
from thinkery.model.transformer import Transformer, rotate


def can_pack(network: Transformer, dtype: torch.dtype) -> bool:
    """Whether there are kernels for packed weights where this network is, in this format."""
    if network.lm_head.weight.device.type != "cpu":
        return False
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Linear(Protocol):
    """One matrix product with a packed weight."""

    def __call__(self, x_TD: Tensor) -> Tensor: ...

    def logits(self, x_TD: Tensor) -> Tensor: ...


class Products(Protocol):
    """How weights are packed: `OneDnn` and `kernels.Compiled`."""

    @property
    def dtype(self) -> torch.dtype: ...

    def linear(self, weight_OD: Tensor, scale_D: Tensor | None, bias_O: Tensor | None) -> Linear: ...


class PackedTransformer:
    """A network's weights in another layout, and perhaps in another number format."""

    def __init__(self, source: Transformer, products: Products) -> None:
        self.source, self.shape, self.dtype = source, source.shape, products.dtype
        self.products = products
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Pack the source's weights as they are now."""
        self.drop()
        model: Any = self.source.model
        self.embeddings_VD = model["embed_tokens"].weight.detach()
        self.layers += [Layer.of(block, self.products) for block in model["layers"]]
        self.head = joined(self.products, self.source.lm_head, norm=model["norm"])
        blocks: Any = [(layer.qkv, layer.out, layer.gate_and_up, layer.down) for layer in self.layers]
        self.fused = Fused(self.source, self.products, blocks) if isinstance(self.products, Compiled) else None

    def drop(self) -> None:
        """Let go of the packed weights; until `refresh` nothing can be computed."""
        self.layers: list[Layer] = []
        self.head: Any = None
        self.fused: Fused | None = None

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Hidden states hidden_TD, normed; the final norm's weight is part of the head."""
        shape, eps = self.shape, self.shape.rms_norm_eps
        H, K, E = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        x_TD = self.embeddings_VD.index_select(0, tokens_T).to(self.dtype)
        rotations = self.source.rotations(positions_T, self.dtype)
        for number, layer in enumerate(self.layers):
            heads_TE = layer.qkv(normed(x_TD, eps)).unflatten(1, (-1, E))
            qk_TNE, v_TKE = heads_TE.split((H + K, K), dim=1)
            if layer.qk_norm_NE is not None:
                qk_TNE = normed(qk_TNE, eps) * layer.qk_norm_NE
            qk_TNE = rotate(qk_TNE, *rotations)
            out_THE = attend(number, qk_TNE[:, :H], qk_TNE[:, H:], v_TKE)
            x_TD += layer.out(out_THE.reshape(-1, H * E))
            gate_TF, up_TF = layer.gate_and_up(normed(x_TD, eps)).chunk(2, dim=-1)
            x_TD += layer.down(F.silu(gate_TF).mul_(up_TF))
        return normed(x_TD, eps)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Next-token logits logits_TV."""
        return self.head.logits(hidden_TD)


@dataclass(frozen=True, slots=True)
class OneDnn:
    """Products by oneDNN."""

    dtype: torch.dtype

    def linear(self, weight_OD: Tensor, scale_D: Tensor | None, bias_O: Tensor | None) -> Prepacked:
        """A product with a weight, whose inputs are scaled."""
        weight_OD = weight_OD if scale_D is None else weight_OD * scale_D
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_OD.to(self.dtype), None)
        bias_O = None if bias_O is None else bias_O.to(self.dtype)
        return Prepacked(packed, bias_O, torch.ops.mkldnn._linear_pointwise.default)


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights: projections of the same input in one matrix, norms multiplied into what follows them."""

    qkv: Linear
    out: Linear
    gate_and_up: Linear
    down: Linear
    qk_norm_NE: Tensor | None
    """Qwen3's norm weights, one row per head of queries, then of keys."""

    @classmethod
    def of(cls, block: Any, do: Products) -> Layer:
        """The weights of a `model.transformer.Block`."""
        attention, mlp = block.self_attn, block.mlp
        return cls(
            qkv=joined(do, attention.q_proj, attention.k_proj, attention.v_proj, norm=block.input_layernorm),
            out=joined(do, attention.o_proj),
            gate_and_up=joined(do, mlp.gate_proj, mlp.up_proj, norm=block.post_attention_layernorm),
            down=joined(do, mlp.down_proj),
            qk_norm_NE=head_norms(attention).to(do.dtype) if attention.qk_norm else None,
        )


@dataclass(frozen=True, slots=True)
class Prepacked:
    """One matrix product by oneDNN."""

    weight: Tensor
    bias: Tensor | None
    product: Callable[..., Tensor]
    """oneDNN's, looked up once: finding it takes as long as its smallest products."""

    def __call__(self, x_TD: Tensor) -> Tensor:
        return self.product(x_TD, self.weight, self.bias, "none", [], "")

    def logits(self, x_TD: Tensor) -> Tensor:
        """The same."""
        return self(x_TD)


def joined(do: Products, *layers: nn.Linear, norm: nn.RMSNorm | None = None) -> Linear:
    """Layers of the same input as one product; the weight of a norm before them is multiplied in."""
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers if layer.bias is not None]
    weight_OD = torch.cat(tuple(weights)) if len(weights) > 1 else weights[0].detach()
    return do.linear(weight_OD, None if norm is None else norm.weight, torch.cat(tuple(biases)) if biases else None)


def head_norms(attention: Any) -> Tensor:
    """The norm weights of every head of queries and keys."""
    parts = [(attention.q_norm, attention.q_proj), (attention.k_norm, attention.k_proj)]
    return torch.cat([norm.weight.expand(layer.out_features // len(norm.weight), -1) for norm, layer in parts])


def normed(x: Tensor, eps: float) -> Tensor:
    """x over its root mean square along the last dimension, which is taken in float32."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return x * (length.square_().div_(x.shape[-1]).add_(eps)).rsqrt_().to(x.dtype)
