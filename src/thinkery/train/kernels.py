"""`kernels.cpp` from Python (`model/compiled.py`): what learning in bfloat16 computes.

PyTorch makes several passes over memory for what is between matrix products, rounds gradients of weights before it adds
them, and would pad, mask and copy for attention.

Shapes: T tokens, D width, O outputs, H query heads and K key heads of E numbers, N = (H + 2K)E, F feed-forward width,
C rows of V logits, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from thinkery.model.compiled import PANEL, address, compiler, function, up
from thinkery.model.shared import Group
from thinkery.model.transformer import Shape

SOURCE = Path(__file__).with_suffix(".cpp")

LANES = 16
"""Numbers that the kernels handle at once."""


class Kernels:
    """The compiled functions, for tensors as their arguments; activations are bfloat16, weights too or float32, other
    numbers float32."""

    def __init__(self) -> None:
        declared = partial(function, SOURCE)
        self._norm = declared("norm", pointers=5, integers=2, floats=1)
        self._norm_back = declared("norm_back", pointers=8, integers=2, floats=1)
        self._add = declared("add", pointers=3, integers=2)
        self._lay_out = {
            (transposed, dtype): declared(f"lay_out{'_transposed' * transposed}_{dtype}", pointers=2, integers=2)
            for transposed in (False, True)
            for dtype in ("float32", "bfloat16")
        }
        self.rooms = {transposed: Room() for transposed in (False, True)}
        self._multiply = declared("multiply", pointers=4, integers=3)
        self._learn = declared("learn", pointers=3, integers=5)
        self._rotate = declared("rotate", pointers=3, integers=4, floats=1)
        self._gate = declared("gate", pointers=2, integers=2)
        self._gate_back = declared("gate_back", pointers=3, integers=2)
        self._attend = declared("attend_forward", pointers=4, integers=5)
        self._attend_back = declared("attend_backward", pointers=9, integers=5)
        self._label_logprobs = declared("label_logprobs", pointers=5, integers=2, floats=1)
        self._label_logprobs_back = declared("label_logprobs_back", pointers=4, integers=2, floats=1)

    def normed(self, x_TD: Tensor, scales_D: Tensor, eps: float) -> Tensor:
        """x over its root mean square, scaled."""
        out_TD = x_TD.new_empty(x_TD.shape, dtype=torch.bfloat16)
        self._norm(x_TD.data_ptr(), None, scales_D.data_ptr(), None, out_TD.data_ptr(), *x_TD.shape, eps)
        return out_TD

    def add_normed(self, x_TD: Tensor, added_TD: Tensor, scales_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """(sum_TD, the same of the sum)."""
        sum_TD, out_TD = torch.empty_like(x_TD), torch.empty_like(added_TD)
        self._norm(*pointers(x_TD, added_TD, scales_D, sum_TD, out_TD), *x_TD.shape, eps)
        return sum_TD, out_TD

    def normed_back(
        self, x_TD: Tensor, scales_D: Tensor, eps: float, slope_TD: Tensor, passed_TD: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the slope of what `normed` made: (x's with what was `passed` beside it, the same in bfloat16, the
        scales', and what `normed` made)."""
        x_slope_TD, scales_slope_D = torch.empty_like(x_TD), torch.empty_like(scales_D)
        narrow_TD, out_TD = torch.empty_like(slope_TD), torch.empty_like(slope_TD)
        made = pointers(x_slope_TD, narrow_TD, scales_slope_D, out_TD)
        self._norm_back(*pointers(x_TD, scales_D, slope_TD), address(passed_TD), *made, *x_TD.shape, eps)
        return x_slope_TD, narrow_TD, scales_slope_D, out_TD

    def added(self, x_TD: Tensor, added_TD: Tensor) -> Tensor:
        """The sum in float32."""
        sum_TD = torch.empty_like(x_TD)
        self._add(*pointers(x_TD, added_TD, sum_TD), *x_TD.shape)
        return sum_TD

    def panels(self, weights: Sequence[Tensor], *, transposed: bool = False) -> Tensor:
        """Weights of one input, one below the other, in bfloat16 as they are multiplied (`products.h`): by inputs, or
        transposed by slopes of outputs. They lie there until others are asked for."""
        ends, inputs = list(accumulate(len(weight) for weight in weights)), weights[0].shape[1]
        columns, depth = (inputs, ends[-1]) if transposed else (ends[-1], inputs)
        room, holds = self.rooms[transposed], [(weight.data_ptr(), weight._version) for weight in weights]
        size = up(columns, PANEL) * up(depth, 2)
        if room.holds != holds:
            room.fit(size)
            parts = torch.tensor(list(zip(pointers(*weights), ends, strict=True)))
            lay_out = self._lay_out[transposed, str(weights[0].dtype).removeprefix("torch.")]
            lay_out(*pointers(parts, room.numbers), ends[-1], inputs)
            room.holds = holds
        return room.numbers[:size]

    def multiply(self, x_TD: Tensor, panels: Tensor, outputs: int, bias: Tensor | None = None) -> Tensor:
        """The product with a weight in panels."""
        T, D = x_TD.shape
        room = x_TD.new_empty(
            T * outputs + 1
        )  # rows are read in pairs of numbers, an odd last one with what is behind it
        room[-1] = 0
        x, weight, out = pointers(x_TD, panels, room)
        self._multiply(x, weight, address(bias), out, T, D, outputs)
        return room[:-1].view(T, outputs)

    def learn(self, gradient_OD: Tensor, x_TD: Tensor, slope_TO: Tensor, *, add: bool) -> None:
        """Make the gradient of a weight, or add to it, from its inputs and the slopes of its outputs, side by side in
        wider rows perhaps."""
        (T, D), (x, gradient) = x_TD.shape, pointers(x_TD, gradient_OD)
        self._learn(x, slope_TO.data_ptr(), gradient, T, D, slope_TO.shape[1], slope_TO.stride(0), add)

    def rotate(self, qkv_TN: Tensor, cos_TE: Tensor, sin_TE: Tensor, heads: int, *, back: bool = False) -> None:
        """Turn the first heads of each row to their positions, or back, in place."""
        (T, E), stride = cos_TE.shape, qkv_TN.shape[1]
        self._rotate(*pointers(qkv_TN, cos_TE, sin_TE), T, heads, E, stride, -1.0 if back else 1.0)

    def gated(self, x_TF: Tensor) -> Tensor:
        """silu of the first half of the columns times the second."""
        T, columns = x_TF.shape
        out_TF = x_TF.new_empty(T, columns // 2)
        self._gate(*pointers(x_TF, out_TF), T, columns // 2)
        return out_TF

    def gated_back(self, x_TF: Tensor, slope_TF: Tensor) -> Tensor:
        """The slope of x; that of what `gated` made is replaced by what it made."""
        x_slope_TF = torch.empty_like(x_TF)
        self._gate_back(*pointers(x_TF, slope_TF, x_slope_TF), *slope_TF.shape)
        return x_slope_TF

    def attend(self, qkv_TN: Tensor, spans: Spans, shape: Shape) -> tuple[Tensor, Tensor]:
        """(out_TD of rotated queries over the keys that they see, logs_HT of the sums behind the softmax)."""
        T, H, K, E = len(qkv_TN), *heads_of(shape)
        out_TD, logs_HT = qkv_TN.new_empty(T, H * E), qkv_TN.new_empty(H, T, dtype=torch.float32)
        self._attend(*pointers(qkv_TN, out_TD, logs_HT, spans.rows_S4), len(spans.rows_S4), T, H, K, E)
        return out_TD, logs_HT

    def attend_back(
        self, qkv_TN: Tensor, out_TD: Tensor, logs_HT: Tensor, slope_TD: Tensor, spans: Spans, shape: Shape
    ) -> Tensor:
        """The slope of qkv_TN."""
        T, H, K, E = len(qkv_TN), *heads_of(shape)
        qkv_slope_TN, sums_XHET = torch.empty_like(qkv_TN), qkv_TN.new_zeros(2, H, E, T, dtype=torch.float32)
        made = pointers(qkv_TN, out_TD, logs_HT, slope_TD, qkv_slope_TN, *sums_XHET, spans.rows_S4, spans.groups)
        self._attend_back(*made, len(spans.groups) - 1, T, H, K, E)
        return qkv_slope_TN

    def label_logprobs(self, logits_CV: Tensor, labels_C: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """(log p of the labels, entropies, logarithms of the sums behind the softmax), each _C."""
        found = [logits_CV.new_empty(len(logits_CV), dtype=torch.float32) for _ in range(3)]
        self._label_logprobs(*pointers(logits_CV, labels_C, *found), *logits_CV.shape, temperature)
        return found[0], found[1], found[2]

    def label_logprobs_back(
        self, logits_CV: Tensor, labels_C: Tensor, slopes_C: Tensor, logs_C: Tensor, temperature: float
    ) -> None:
        """Replace logits by their slopes."""
        self._label_logprobs_back(*pointers(logits_CV, labels_C, slopes_C, logs_C), *logits_CV.shape, temperature)
        torch.autograd.graph.increment_version(logits_CV)


class Room:
    """Where weights are laid out, one product's after the other's."""

    def __init__(self) -> None:
        self.numbers = torch.empty(0, dtype=torch.bfloat16)
        self.holds: list[tuple[int, int]] = []
        """Where the weights that lie here come from, and which versions of them they are."""

    def fit(self, size: int) -> None:
        """Be large enough."""
        if len(self.numbers) < size:
            self.numbers = torch.empty(size, dtype=torch.bfloat16)


class Spans:
    """Which stretches of a micro-batch see which, for the kernels: a prompt itself, a continuation both."""

    def __init__(self, groups: Sequence[Group]) -> None:
        rows, ends, at = [], [0], 0
        for prompt, parts in groups:
            if len(parts) == 1:
                rows.append((at, prompt + parts[0], at, 0))
            else:
                own = [at + prompt + sum(parts[:i]) for i in range(len(parts))]
                rows += [(at, prompt, at, 0), *((o, n, at, prompt) for o, n in zip(own, parts, strict=True))]
            at += prompt + sum(parts)
            ends.append(len(rows))
        self.rows_S4, self.groups = torch.tensor(rows), torch.tensor(ends)


def pointers(*tensors: Tensor) -> list[int]:
    """Where their numbers begin; RuntimeError unless they lie close together."""
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise RuntimeError("a kernel was given a tensor with gaps")
    return [tensor.data_ptr() for tensor in tensors]


def heads_of(shape: Shape) -> tuple[int, int, int]:
    """Query heads, key heads, and their width."""
    return shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim


def suits(shape: Shape) -> bool:
    """Whether a decoder's widths fill the kernels' registers, and there is a compiler."""
    widths = shape.hidden_size, shape.intermediate_size, shape.head_dim // 2
    return not any(width % LANES for width in widths) and compiler() is not None
