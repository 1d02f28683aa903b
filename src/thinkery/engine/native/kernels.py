"""`decoder.h` from Python (`model/compiled.py`), compiled for weights in the format of activations or in 8 bits.

PyTorch's products of a few rows, or of a few queries with many keys, are several times as slow on a CPU. Without a
compiler, or for widths that do not fill registers, `packed.OneDnn` and `attention.py` are what samples.

Shapes: T tokens, D width, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from thinkery.model.compiled import PANEL, address, compiler, function, up
from thinkery.model.transformer import Shape

SOURCE = Path(__file__).with_suffix(".cpp")
INT8 = SOURCE.with_name("int8.cpp")

LANES = 8
"""Numbers that the kernels handle at once (`decoder.h`)."""

HEADS = (16, 32, 64, 80, 96, 128)
"""Head widths that there are kernels for."""

SHARE = 2**23
"""Multiplications that are worth another thread: fewer take no longer than threads wait for each other."""


SPREAD = 64
"""Inputs that are spread over each other before they are rounded to 8 bits (`model/int8.h`)."""


class Compiled:
    """Products by compiled functions, with weights in panels (`model/products.h`): in the format of what is multiplied,
    or in 8 bits, to which inputs are rounded too (`model/int8.h`)."""

    def __init__(self, dtype: torch.dtype, weights: torch.dtype | None = None) -> None:
        self.dtype, self.weights = dtype, weights or dtype
        self.source = INT8 if self.weights == torch.int8 else SOURCE
        self.lay_out = self.function("lay_out", self.weights, pointers=3, integers=2)
        self.multiply = self.function("linear", *self.formats, pointers=4, integers=4)
        self.to_logits = self.function("logits", *self.formats, pointers=3, integers=4)

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Of what is multiplied and of weights, once where they are the same."""
        return tuple(dict.fromkeys((self.dtype, self.weights)))

    def function(self, name: str, *formats: torch.dtype, **takes: int) -> Callable[..., None]:
        """A function of `decoder.h` for these formats."""
        return function(self.source, "_".join((name, *(str(each).removeprefix("torch.") for each in formats))), **takes)

    def size(self, outputs: int, width: int) -> int:
        """Numbers of a weight in panels; behind those of a panel in 8 bits stands a unit in float32 for each output."""
        return up(outputs, PANEL) * (width + (4 if self.weights == torch.int8 else 0))

    def linear(self, weight_OD: Tensor, scale_D: Tensor | None, bias_O: Tensor | None) -> Panels:
        """A product with a weight, whose inputs are scaled."""
        outputs, width = weight_OD.shape
        panels = torch.empty(self.size(outputs, width), dtype=self.weights)
        weight_OD, scale_D = weight_OD.float().contiguous(), None if scale_D is None else scale_D.float()
        self.lay_out(*map(address, (weight_OD, scale_D, panels)), outputs, width)
        return Panels(self, panels, outputs, None if bias_O is None else bias_O.float())


@dataclass(frozen=True, slots=True)
class Panels:
    """One matrix product, its weight in panels."""

    do: Compiled
    panels: Tensor
    outputs: int
    bias: Tensor | None

    def __call__(self, x_TD: Tensor) -> Tensor:
        x_TD, out_TO = x_TD.contiguous(), x_TD.new_empty(len(x_TD), self.outputs)
        self.do.multiply(*map(address, (x_TD, self.panels, self.bias, out_TO)), *self.sizes(x_TD))
        return out_TO

    def logits(self, x_TD: Tensor) -> Tensor:
        """The product in float32."""
        x_TD, out_TO = x_TD.contiguous(), torch.empty(len(x_TD), self.outputs)
        self.do.to_logits(*map(address, (x_TD, self.panels, out_TO)), *self.sizes(x_TD))
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


def widths(shape: Shape) -> tuple[int, ...]:
    """How many inputs a decoder's products have."""
    return shape.hidden_size, shape.num_attention_heads * shape.head_dim, shape.intermediate_size
