"""A decoding step in one call of a compiled function (`kernels.cpp:decode`).

Every layer's norms, products, rotation and attention are one loop over packed weights: calling some two hundred
operations from Python would take as long as a step of one row.

Shapes: B rows, D width, L positions, E head width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thinkery.engine.native.cache import Cache
from thinkery.engine.native.kernels import SOURCE, Panels, threads_for
from thinkery.engine.native.sequence import Sample
from thinkery.model.compiled import function
from thinkery.model.transformer import Transformer


class Sizes(ctypes.Structure):
    """`kernels.cpp:Sizes`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "layers", "D", "H", "K", "E", "F", "G", "L", "threads")),
        *((name, ctypes.c_void_p) for name in ("slots", "shared", "places", "cos", "sin")),
    )  # fmt: skip


class Step:
    """Decodes with a network's packed weights as they are now: per block those of q, k and v, of attention's output, of
    gate and up, and of down."""

    def __init__(self, source: Transformer, dtype: torch.dtype, blocks: Sequence[Sequence[Panels]]) -> None:
        model: Any = source.model
        self.source, self.dtype = source, dtype
        self.layers = [
            [*(panels.panels for panels in panels_of), *(panels.bias for panels in panels_of), *head_norms(block)]
            for panels_of, block in zip(blocks, model["layers"], strict=True)
        ]
        self.embeddings_VD = model["embed_tokens"].weight.detach()
        self.step = function(SOURCE, f"decode_{str(dtype).removeprefix('torch.')}", pointers=4, integers=0, floats=1)
        self.weights = sum(panels.panels.numel() for panels_of in blocks for panels in panels_of)
        self.angles = torch.empty(2, 0, source.shape.head_dim // 2)
        self.pointers: tuple[tuple[int, ...], Any] | None = None

    def decode(self, rows: Sequence[Sample], prompts: Cache, own: Cache) -> Tensor:
        """Feed every row its last token; hidden_BD as the network gives it."""
        shape, B = self.source.shape, len(rows)
        x_BD = self.embeddings_VD.index_select(0, torch.tensor([row.tokens[-1] for row in rows])).float()
        shared = [row.shared for row in rows]
        places = [row.length - n - 1 for row, n in zip(rows, shared, strict=True)]
        at = torch.tensor([[row.share.slot if row.share else 0 for row in rows], shared, places])
        cos_LE, sin_LE = self.rotations(max(row.length for row in rows))
        sizes = Sizes(
            B, len(self.layers), shape.hidden_size, shape.num_attention_heads, shape.num_key_value_heads,
            shape.head_dim, shape.intermediate_size, prompts.capacity, own.capacity, threads_for(B * self.weights),
            *(x.data_ptr() for x in (*at, cos_LE, sin_LE)),
        )  # fmt: skip
        out_BD = torch.empty(B, shape.hidden_size, dtype=self.dtype)
        pointers = self.pointers_to(prompts, own)
        self.step(ctypes.addressof(sizes), ctypes.addressof(pointers), x_BD.data_ptr(), out_BD.data_ptr(),
                  shape.rms_norm_eps)  # fmt: skip
        return out_BD

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


def head_norms(block: Any) -> tuple[Tensor | None, Tensor | None]:
    """The weights of Qwen3's norms of queries and keys, in float32."""
    attention = block.self_attn
    if not attention.qk_norm:
        return None, None
    return attention.q_norm.weight.detach().float(), attention.k_norm.weight.detach().float()
