"""`kernels.cpp` from Python (`model/compiled.py`).

PyTorch does the same in several passes over memory each. Its products of a few rows, or of a few queries with many
keys, are several times as slow on a CPU. Without a compiler, or for widths that do not fill registers, `packed.Plain`
and `attention.over_prompts_and_own` are what samples.

Shapes: T tokens, D width, O outputs, N heads, H of them queries and K keys, E head width, F feed-forward width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from thinkery.model.attention import Attend
from thinkery.model.compiled import compiler, function
from thinkery.model.transformer import Shape

SOURCE = Path(__file__).with_suffix(".cpp")

PANEL = 32
"""Outputs whose weights lie side by side (`products.h`)."""

LANES = 8
"""Numbers that the kernels handle at once (`kernels.cpp`)."""

HEADS = (16, 32, 64, 80, 96, 128)
"""Head widths that there are kernels for."""

SHARE = 2**23
"""Multiplications that are worth another thread: fewer take no longer than threads wait for each other."""


class Compiled:
    """The arithmetic of `packed.Plain` by compiled functions, weights in panels (`model/products.h`)."""

    def __init__(self, dtype: torch.dtype, eps: float) -> None:
        name, declared = str(dtype).removeprefix("torch."), partial(function, SOURCE)
        self.dtype, self.eps = dtype, eps
        self.lay_out = declared(f"lay_out_{name}", pointers=3, integers=2)
        self.multiply = declared(f"linear_{name}", pointers=4, integers=4)
        self.to_logits = declared(f"logits_{name}", pointers=3, integers=4)
        self.read = declared(f"read_{name}", pointers=3, integers=6)
        self.norm = declared(f"norm_{name}", pointers=3, integers=2, floats=1)
        self.rotate = declared(f"rotate_{name}", pointers=3, integers=4)
        self.gate = declared(f"gate_{name}", pointers=2, integers=2)

    def linear(self, weight_OD: Tensor, scale_D: Tensor | None, bias_O: Tensor | None) -> Panels:
        """A product with a weight, whose inputs are scaled."""
        outputs, width = weight_OD.shape
        panels = torch.empty(-(-outputs // PANEL) * PANEL * width, dtype=self.dtype)
        weight_OD, scale_D = weight_OD.float().contiguous(), None if scale_D is None else scale_D.float()
        self.lay_out(*(x if x is None else x.data_ptr() for x in (weight_OD, scale_D, panels)), outputs, width)
        return Panels(self, panels, outputs, None if bias_O is None else bias_O.float())

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


@dataclass(frozen=True, slots=True)
class Panels:
    """One matrix product, its weight in panels."""

    do: Compiled
    panels: Tensor
    outputs: int
    bias: Tensor | None

    def __call__(self, x_TD: Tensor) -> Tensor:
        x_TD, out_TO = x_TD.contiguous(), x_TD.new_empty(len(x_TD), self.outputs)
        pointers = (x if x is None else x.data_ptr() for x in (x_TD, self.panels, self.bias, out_TO))
        self.do.multiply(*pointers, *self.sizes(x_TD))
        return out_TO

    def logits(self, x_TD: Tensor) -> Tensor:
        """The product in float32."""
        x_TD, out_TO = x_TD.contiguous(), torch.empty(len(x_TD), self.outputs)
        self.do.to_logits(*(x.data_ptr() for x in (x_TD, self.panels, out_TO)), *self.sizes(x_TD))
        return out_TO

    def sizes(self, x_TD: Tensor) -> tuple[int, ...]:
        """Rows, inputs, outputs and threads."""
        rows, width = x_TD.shape
        return rows, width, self.outputs, threads_for(rows * self.panels.numel())


def threads_for(multiplications: int) -> int:
    """How many threads share so much work."""
    return min(torch.get_num_threads(), 1 + multiplications // SHARE)


def suits(shape: Shape) -> bool:
    """Whether a decoder's widths fill the kernels' registers and panels, and there are kernels here."""
    filled = not (shape.hidden_size % LANES or shape.intermediate_size % PANEL)
    return filled and shape.head_dim in HEADS and compiler() is not None
