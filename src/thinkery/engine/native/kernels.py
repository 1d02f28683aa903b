"""`kernels.cpp` from Python (`model/compiled.py`).

PyTorch does the same in several passes over memory each, and its product of a few queries with many keys is several
times as slow on a CPU. Without a compiler, or for widths that do not fill registers, `packed.Plain` and
`attention.over_prompts_and_own` are what samples.

Shapes: T tokens or B rows, D width, N heads, H of them queries and K keys, E head width, F feed-forward width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from thinkery.engine.native.cache import Cache
from thinkery.model.attention import Attend
from thinkery.model.compiled import compiler, function
from thinkery.model.transformer import Shape

SOURCE = Path(__file__).with_suffix(".cpp")

LANES = 8
"""Numbers that the kernels handle at once."""

HEADS = (16, 32, 64, 80, 96, 128)
"""Head widths that there are kernels for."""


class Compiled:
    """The arithmetic of `packed.Plain`, and attention to the caches, by compiled functions."""

    def __init__(self, dtype: torch.dtype, eps: float) -> None:
        name, declared = str(dtype).removeprefix("torch."), partial(function, SOURCE)
        self.eps = eps
        self.attend = declared(f"attend_{name}", pointers=11, integers=10)
        self.read = declared(f"read_{name}", pointers=3, integers=6)
        self.norm = declared(f"norm_{name}", pointers=3, integers=2, floats=1)
        self.rotate = declared(f"rotate_{name}", pointers=3, integers=4)
        self.gate = declared(f"gate_{name}", pointers=2, integers=2)

    def normed(self, x_TD: Tensor) -> Tensor:
        """x over its root mean square."""
        out_TD = torch.empty_like(x_TD)
        self.norm(x_TD.data_ptr(), None, out_TD.data_ptr(), *x_TD.shape, self.eps)
        return out_TD

    def add_normed(self, x_TD: Tensor, added_TD: Tensor) -> Tensor:
        """x, to which something is added in place, over its root mean square."""
        out_TD = torch.empty_like(x_TD)
        self.norm(x_TD.data_ptr(), added_TD.data_ptr(), out_TD.data_ptr(), *x_TD.shape, self.eps)
        return out_TD

    def rotated(self, x_TNE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        """Heads, which are changed, with their positions."""
        self.rotate(x_TNE.data_ptr(), cos_TE.data_ptr(), sin_TE.data_ptr(), *x_TNE.shape, x_TNE.stride(0))
        return x_TNE

    def gated(self, x_TF: Tensor) -> Tensor:
        """silu of the first half of the columns times the second."""
        rows, columns = x_TF.shape
        out_TF = x_TF.new_empty(rows, columns // 2)
        self.gate(x_TF.data_ptr(), out_TF.data_ptr(), rows, columns // 2)
        return out_TF

    def over_caches(self, prompts: Cache, own: Cache, slots_B: Tensor, shared_B: Tensor, places_B: Tensor) -> Attend:
        """Attention of one new token per row, stored at `places_B` of the row's own text, to its own slot and to the
        first `shared_B` tokens of a prompt's."""
        K, rows = own.heads, [x.data_ptr() for x in (slots_B, shared_B, places_B)]
        kept = slots_B, shared_B, places_B  # their memory is read for as long as this can be called

        def attend(layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
            B, H, E = q_BHE.shape
            out_BHE = q_BHE.new_empty(B, H, E)
            caches = (prompts.keys[layer], prompts.values[layer], own.keys[layer], own.values[layer])
            tensors = (q_BHE, k_BKE, v_BKE, *caches, out_BHE)
            strides = (q_BHE.stride(0), k_BKE.stride(0), v_BKE.stride(0))
            sizes = (len(kept[0]), H, K, E, prompts.capacity, own.capacity)
            self.attend(*(x.data_ptr() for x in tensors), *rows, *sizes, *strides, torch.get_num_threads())
            return out_BHE

        return attend

    def after(self, parts: Sequence[tuple[Tensor, int, int]]) -> Attend:
        """What `attention.after` does."""
        firsts = list(itertools.accumulate((end - done for _, done, end in parts), initial=0))

        def attend(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
            texts = []
            for (kv_XITKE, done, end), first in zip(parts, firsts, strict=False):
                here, (keys_TKE, values_TKE) = slice(first, first + end - done), kv_XITKE[:, layer]
                keys_TKE[done:end], values_TKE[done:end] = k_TKE[here], v_TKE[here]
                texts += [keys_TKE.data_ptr(), values_TKE.data_ptr(), first, done, end]
                texts += [keys_TKE.stride(1), keys_TKE.stride(0)]
            return self.seen(q_THE, k_TKE.shape[1], texts)

        return attend

    def causal(self, lengths: Sequence[int]) -> Attend:
        """What `model.attention.packed_causal` does."""
        firsts = list(itertools.accumulate(lengths, initial=0))

        def attend(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
            if k_TKE.stride() != v_TKE.stride():
                k_TKE, v_TKE = k_TKE.contiguous(), v_TKE.contiguous()
            texts, (token, head, _) = [], k_TKE.stride()
            for first, length in zip(firsts, lengths, strict=False):
                place = first * token * k_TKE.itemsize
                texts += [k_TKE.data_ptr() + place, v_TKE.data_ptr() + place, first, 0, length, head, token]
            return self.seen(q_THE, k_TKE.shape[1], texts)

        return attend

    def seen(self, q_THE: Tensor, K: int, texts: list[int]) -> Tensor:
        """out_THE, what queries see of their texts, each given as a `kernels.cpp:Text`."""
        T, H, E = q_THE.shape
        out_THE, described = q_THE.new_empty(T, H, E), torch.tensor(texts)
        pointers = q_THE.data_ptr(), described.data_ptr(), out_THE.data_ptr()
        self.read(*pointers, len(texts) // 7, q_THE.stride(0), H, K, E, torch.get_num_threads())
        return out_THE


def suits(shape: Shape) -> bool:
    """Whether a decoder's widths fill the kernels' registers, and there are kernels here."""
    widths = shape.hidden_size, shape.intermediate_size
    return shape.head_dim in HEADS and not any(width % LANES for width in widths) and compiler() is not None
