"""The decoder's layers in one call (`decoder.h`): a step of decoding, or the next tokens of texts.

Every layer's norms, products, rotation and attention are one loop over packed weights: calling some two hundred
operations from Python would take as long as a step of one row, and for a small network as long as reading a prompt.

Shapes: B rows, T tokens, D width, L positions, E head width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thinkery.engine.native.cache import Cache
from thinkery.engine.native.kernels import Compiled, Panels, threads_for
from thinkery.engine.native.sequence import Sample
from thinkery.model.compiled import address
from thinkery.model.transformer import Transformer


class Sizes(ctypes.Structure):
    """`decoder.h:Sizes`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "layers", "D", "H", "K", "E", "F", "G", "L", "threads")),
        *((name, ctypes.c_void_p) for name in ("slots", "shared", "places", "cos", "sin")),
    )  # fmt: skip


class Fused:
    """A network's packed weights as they are now: per block those of q, k and v, of attention's output, of gate and up,
    and of down."""

    def __init__(self, source: Transformer, products: Compiled, blocks: Sequence[Sequence[Panels]]) -> None:
        model: Any = source.model
        self.source, self.dtype = source, products.dtype
        self.layers = [
            [*(panels.panels for panels in panels_of), *(panels.bias for panels in panels_of), *head_norms(block)]
            for panels_of, block in zip(blocks, model["layers"], strict=True)
        ]
        self.embeddings_VD = model["embed_tokens"].weight.detach()
        self.step = products.function("decode", *products.formats, pointers=4, integers=0, floats=1)
        self.parts = products.function("advance", *products.formats, pointers=5, integers=1, floats=1)
        self.weights = sum(panels.panels.numel() for panels_of in blocks for panels in panels_of)
        self.eps = source.shape.rms_norm_eps
        self.angles = torch.empty(2, 0, source.shape.head_dim // 2)
        self.weights_alone = addresses_of(self.layers, [(None,) * 4] * len(self.layers))
        self.pointers: tuple[tuple[int, ...], Any] | None = None

    def decode(self, rows: Sequence[Sample], prompts: Cache, own: Cache) -> Tensor:
        """Feed every row its last token; hidden_BD as the network gives it."""
        B = len(rows)
        x_BD = self.embeddings_VD.index_select(0, torch.tensor([row.tokens[-1] for row in rows])).float()
        shared = [row.shared for row in rows]
        places = [row.length - n - 1 for row, n in zip(rows, shared, strict=True)]
        at = torch.tensor([[row.share.slot if row.share else 0 for row in rows], shared, places])
        sizes = self.sizes(B, max(row.length for row in rows), prompts.capacity, own.capacity, *at)
        out_BD = torch.empty(B, x_BD.shape[1], dtype=self.dtype)
        pointers = self.pointers_to(prompts, own)
        self.step(ctypes.addressof(sizes), ctypes.addressof(pointers), x_BD.data_ptr(), out_BD.data_ptr(), self.eps)
        return out_BD

    def advance(self, tokens: Sequence[int], parts: Sequence[tuple[Tensor, int, int]]) -> Tensor:
        """Compute parts of texts, (kv_XITKE, done, end) each, whose tokens lie end to end; hidden_TD. Their keys and
        values are put into place."""
        x_TD = self.embeddings_VD.index_select(0, torch.tensor(tokens)).float()
        first, texts = 0, []
        for kv_XITKE, done, end in parts:
            keys, values = (kv.data_ptr() for kv in kv_XITKE)
            _, layer, token, head, _ = kv_XITKE.stride()
            texts += [keys, values, first, done, end, head, token, layer]
            first += end - done
        described, out_TD = torch.tensor(texts), torch.empty(x_TD.shape, dtype=self.dtype)
        sizes = self.sizes(len(tokens), max(end for _, _, end in parts), 0, 0)
        pointers = (sizes, self.weights_alone, described, x_TD, out_TD)
        addresses = (x.data_ptr() if isinstance(x, Tensor) else ctypes.addressof(x) for x in pointers)
        self.parts(*addresses, len(parts), self.eps)
        return out_TD

    def sizes(self, rows: int, length: int, prompts: int, own: int, *at: Tensor) -> Sizes:
        """Of a pass over so many rows, at positions below `length`, and what it reads beside weights."""
        shape, kept = self.source.shape, (*(at or (None, None, None)), *self.rotations(length))
        return Sizes(
            rows, len(self.layers), shape.hidden_size, shape.num_attention_heads, shape.num_key_value_heads,
            shape.head_dim, shape.intermediate_size, prompts, own, threads_for(rows * self.weights),
            *map(address, kept),
        )  # fmt: skip

    def rotations(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin of the angles of `length` positions or more, rounded as a network in this format has them."""
        if length > self.angles.shape[1]:
            places = torch.arange(1 << (length - 1).bit_length())
            half = self.source.shape.head_dim // 2
            self.angles = torch.stack([x[:, :half].float() for x in self.source.rotations(places, self.dtype)])
        cos_LE, sin_LE = self.angles
        return cos_LE, sin_LE

    def pointers_to(self, prompts: Cache, own: Cache) -> Any:
        """`decoder.h:Layer` of every layer; made again when a cache has moved."""
        made = (prompts.made, own.made)
        if self.pointers is None or self.pointers[0] != made:
            stores = zip(prompts.keys, prompts.values, own.keys, own.values, strict=True)
            self.pointers = made, addresses_of(self.layers, stores)
        return self.pointers[1]


def addresses_of(layers: Sequence[Sequence[Tensor | None]], stores: Iterable[Sequence[Tensor | None]]) -> Any:
    """`decoder.h:Layer` of every layer, with its caches."""
    tensors = [x for weights, caches in zip(layers, stores, strict=True) for x in (*weights, *caches)]
    return (ctypes.c_void_p * len(tensors))(*map(address, tensors))


def head_norms(block: Any) -> tuple[Tensor | None, Tensor | None]:
    """The weights of Qwen3's norms of queries and keys, in float32."""
    attention = block.self_attn
    if not attention.qk_norm:
        return None, None
    return attention.q_norm.weight.detach().float(), attention.k_norm.weight.detach().float()
