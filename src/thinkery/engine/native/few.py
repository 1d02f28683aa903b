"""A decoding step of few rows in one call of a compiled function (`kernels.cpp:decode`).

With one row, or with a small network, a step is short: calling some two hundred operations from Python takes as long as
what they compute. Here every layer's norms, products, rotation and attention are one loop over weights as they stand in
the network. Where that has another format than the one sampled in, there is a copy of them once it is worth its making.

Shapes: B rows, D width, V vocabulary, L positions, E head width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thinkery.engine.native.cache import Cache
from thinkery.engine.native.kernels import SOURCE
from thinkery.engine.native.sequence import Sample
from thinkery.model.compiled import function
from thinkery.model.transformer import Transformer

SMALL, LARGE = 2**26, 2**29
"""Bytes of weights of which there may be another copy from the beginning, and at all."""

PATIENCE = 32
"""Steps of few rows after which a larger copy is made: these cost about as much more as its making."""

OPERATIONS = 3 * 10**8
"""Multiplications in one step up to which this is faster than products of packed weights."""

MOST = 32
"""Rows that are computed together at most."""

SHARE = 2**23
"""Multiplications in one step that are worth another thread: fewer take no longer than threads wait for each other."""


class Sizes(ctypes.Structure):
    """`kernels.cpp:Sizes`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "layers", "D", "H", "K", "E", "F", "G", "L", "threads")),
        *((name, ctypes.c_void_p) for name in ("slots", "shared", "places", "cos", "sin")),
    )  # fmt: skip


class FewRows:
    """The weights of a network as they are now, to decode with."""

    def __init__(self, source: Transformer, dtype: torch.dtype) -> None:
        model: Any = source.model
        name = str(dtype).removeprefix("torch.")
        self.source, self.dtype = source, dtype
        self.layers = [list(weights_of(block, dtype)) for block in model["layers"]]
        self.norm, self.head = model["norm"].weight.float(), source.lm_head.weight.to(dtype)
        self.embeddings_VD = model["embed_tokens"].weight
        self.step = function(SOURCE, f"decode_{name}", pointers=4, integers=0, floats=1)
        self.multiply = function(SOURCE, f"head_{name}", pointers=4, integers=4)
        self.weights = weights_in(source)
        self.angles = torch.empty(2, 0, source.shape.head_dim // 2)
        self.pointers: tuple[tuple[int, ...], Any] | None = None

    def decode(self, rows: Sequence[Sample], prompts: Cache, own: Cache) -> Tensor:
        """Feed every row its last token; hidden_BD as a packed network gives it."""
        shape, B = self.source.shape, len(rows)
        tokens = torch.tensor([row.tokens[-1] for row in rows])
        x_BD = self.embeddings_VD.index_select(0, tokens).float()
        shared = [row.shared for row in rows]
        places = [row.length - n - 1 for row, n in zip(rows, shared, strict=True)]
        at = torch.tensor([[row.share.slot if row.share else 0 for row in rows], shared, places])
        cos_LE, sin_LE = self.rotations(max(row.length for row in rows))
        sizes = Sizes(
            B, len(self.layers), shape.hidden_size, shape.num_attention_heads, shape.num_key_value_heads,
            shape.head_dim, shape.intermediate_size, prompts.capacity, own.capacity, self.threads(B),
            *(x.data_ptr() for x in (*at, cos_LE, sin_LE)),
        )  # fmt: skip
        out_BD = torch.empty(B, shape.hidden_size, dtype=self.dtype)
        pointers = self.pointers_to(prompts, own)
        self.step(ctypes.addressof(sizes), ctypes.addressof(pointers), x_BD.data_ptr(), out_BD.data_ptr(),
                  shape.rms_norm_eps)  # fmt: skip
        return out_BD

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """Next-token logits logits_BV in float32."""
        B, V = len(hidden_BD), len(self.head)
        hidden_BD, out_BV = hidden_BD.contiguous(), torch.empty(B, V)
        tensors = (hidden_BD, self.norm, self.head, out_BV)
        self.multiply(*(x.data_ptr() for x in tensors), B, hidden_BD.shape[1], V, self.threads(B))
        return out_BV

    def threads(self, rows: int) -> int:
        """How many threads work on a step of so many rows."""
        return min(torch.get_num_threads(), 1 + rows * self.weights // SHARE)

    def rotations(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin of the angles of `length` positions or more, rounded as a network in this format has them."""
        if length > self.angles.shape[1]:
            places = torch.arange(1 << (length - 1).bit_length())
            half = self.source.shape.head_dim // 2
            self.angles = torch.stack([x[:, :half].float() for x in self.source.rotations(places, self.dtype)])
        cos_LE, sin_LE = self.angles
        return cos_LE, sin_LE

    def pointers_to(self, prompts: Cache, own: Cache) -> Any:
        """`kernels.cpp:Layer` of every layer; made again when a cache has moved."""
        made = (prompts.made, own.made)
        if self.pointers is None or self.pointers[0] != made:
            stores = zip(prompts.keys, prompts.values, own.keys, own.values, strict=True)
            addresses = [
                x if x is None else x.data_ptr()
                for weights, caches in zip(self.layers, stores, strict=True)
                for x in (*weights, *caches)
            ]
            self.pointers = made, (ctypes.c_void_p * len(addresses))(*addresses)
        return self.pointers[1]


class Few:
    """`FewRows` of a network where that is possible, made when it is worth it."""

    def __init__(self, source: Transformer, dtype: torch.dtype) -> None:
        self.source, self.dtype = source, dtype
        self.most, self.patience = most_rows(source), patience(source, dtype)
        self.made: FewRows | None = None

    def rows(self, count: int) -> FewRows | None:
        """What computes a step of so many rows, if they are few; to be asked once a step."""
        if count > self.most or self.patience is None:
            return None
        self.patience -= 1
        if self.made is None and self.patience < 0:
            self.made = FewRows(self.source, self.dtype)
        return self.made

    def head(self, count: int) -> FewRows | None:
        """What computes the logits of so many rows, if they are few."""
        return self.made if count <= self.most else None


def patience(source: Transformer, dtype: torch.dtype) -> int | None:
    """Steps to wait before weights are copied, 0 where they need not be or are small; None where they are too large."""
    size = weights_in(source) * dtype.itemsize
    in_place = all(type(layer) is nn.Linear for block in source.blocks for layer in linears(block))
    if size <= SMALL or (in_place and source.lm_head.weight.dtype == dtype):
        return 0
    return PATIENCE if size <= LARGE else None


def most_rows(source: Transformer) -> int:
    """How many rows are still few for this network."""
    return min(MOST, max(1, OPERATIONS // weights_in(source)))


def weights_in(source: Transformer) -> int:
    """How many numbers a network has learnt."""
    return sum(parameter.numel() for parameter in source.parameters())


def linears(block: Any) -> tuple[Any, ...]:
    """The linear layers of a block, in the order of `kernels.cpp:Layer`."""
    attention, mlp = block.self_attn, block.mlp
    return (*projections(attention), attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def projections(attention: Any) -> tuple[Any, ...]:
    """Those of queries, keys and values."""
    return attention.q_proj, attention.k_proj, attention.v_proj


def weights_of(block: Any, dtype: torch.dtype) -> Iterator[Tensor | None]:
    """The weights of a block, in the order of `kernels.cpp:Layer`; norms and biases in float32."""
    attention, mlp = block.self_attn, block.mlp
    yield from (layer.weight.detach().to(dtype).contiguous() for layer in linears(block))
    yield block.input_layernorm.weight.detach().float()
    yield from (bias_of(layer) for layer in projections(attention))
    yield from (
        (n.weight.detach().float() for n in (attention.q_norm, attention.k_norm)) if attention.qk_norm else (None, None)
    )
    yield bias_of(attention.o_proj)
    yield block.post_attention_layernorm.weight.detach().float()
    yield from (bias_of(layer) for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))


def bias_of(layer: nn.Linear) -> Tensor | None:
    """What a layer adds, in float32."""
    return None if layer.bias is None else layer.bias.detach().float()
