"""How tokens of packed sequences see each other when there is no cache: causal, never across sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_THE, k_TKE, v_TKE) → out_THE; queries and keys are already rotated, scale is 1/sqrt(E)."""


def packed_causal(lengths: Sequence[int], device: torch.device | str = "cpu") -> Attend:
    """Causal attention inside each of several sequences laid end to end; `lengths` sums to T.

    Sequences are padded to the longest for the attention alone (every other layer runs padding-free), so
    callers gain by packing sequences of similar length together.
    """
    B, L = len(lengths), max(lengths)
    even = all(n == L for n in lengths)
    slots_T = torch.cat([torch.arange(n) + i * L for i, n in enumerate(lengths)]).to(device)

    def spread(x_TNE: Tensor) -> Tensor:
        if even:
            return x_TNE.view(B, L, *x_TNE.shape[1:]).transpose(1, 2)
        x = x_TNE.new_zeros(B * L, *x_TNE.shape[1:]).index_copy(0, slots_T, x_TNE)
        return x.view(B, L, *x_TNE.shape[1:]).transpose(1, 2)

    def attend(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
        grouped = q_THE.shape[1] != k_TKE.shape[1]
        out_BHLE = F.scaled_dot_product_attention(
            spread(q_THE), spread(k_TKE), spread(v_TKE), is_causal=True, enable_gqa=grouped
        )
        flat = out_BHLE.transpose(1, 2).reshape(B * L, *q_THE.shape[1:])
        return flat if even else flat.index_select(0, slots_T)

    return attend


def positions(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Positions 0, 1, … of every sequence, laid end to end (int64, T)."""
    return torch.cat([torch.arange(n) for n in lengths]).to(device)
