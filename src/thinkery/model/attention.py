"""How tokens of packed sequences see each other when there is no cache: causal, never across sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_THE, k_TKE, v_TKE) → out_THE; queries and keys are already rotated, scale is 1/sqrt(E)."""


SHORT, SHORT_CAUSAL = 512, 1024
"""Keys up to which plain bfloat16 products are twice as fast on a CPU as torch's fused kernel, both ways; where queries
see up to their own key alone, half the scores are never made."""
CAUSAL_BLOCK = 256
"""Queries at once, which see no key after the last of them."""


def attention(q_BHLE: Tensor, k_BKME: Tensor, v_BKME: Tensor, seen_B1LM: Tensor | None = None) -> Tensor:
    """out_BHLE of queries that see the keys in `seen_B1LM`, or without it all up to their own; H / K heads share."""
    short = SHORT if seen_B1LM is not None else SHORT_CAUSAL
    if v_BKME.dtype == torch.bfloat16 and v_BKME.device.type == "cpu" and k_BKME.shape[2] <= short:
        q_BHLE, k_BKME = q_BHLE.to(v_BKME.dtype), k_BKME.to(v_BKME.dtype)
        if seen_B1LM is None:
            return causal_products(q_BHLE, k_BKME, v_BKME)
        return by_products(q_BHLE, k_BKME, v_BKME, seen_B1LM)
    return fused(q_BHLE, k_BKME, v_BKME, seen_B1LM)


def fused(q_BHLE: Tensor, k_BKME: Tensor, v_BKME: Tensor, seen_B1LM: Tensor | None = None) -> Tensor:
    """The same by torch's kernels. On CUDA only FlashAttention knows heads that share keys, and neither masks nor
    float32: for these, keys are repeated, since what is left would hold the scores of all heads in memory."""
    shared = q_BHLE.shape[1] != k_BKME.shape[1]
    flash = seen_B1LM is None and v_BKME.dtype in (torch.bfloat16, torch.float16)
    if shared and q_BHLE.device.type == "cuda" and not flash:
        times = q_BHLE.shape[1] // k_BKME.shape[1]
        q_BHLE, k_BKME = q_BHLE.to(v_BKME.dtype), k_BKME.to(v_BKME.dtype)  # as autocast does
        k_BKME, v_BKME = k_BKME.repeat_interleave(times, 1), v_BKME.repeat_interleave(times, 1)
        shared = False
    return F.scaled_dot_product_attention(
        q_BHLE, k_BKME, v_BKME, attn_mask=seen_B1LM, is_causal=seen_B1LM is None, enable_gqa=shared
    )


def by_products(q_BHLE: Tensor, k_BKME: Tensor, v_BKME: Tensor, seen_B1LM: Tensor) -> Tensor:
    """The same with all scores at once."""
    (B, H, L, E), (_, K, M, _) = q_BHLE.shape, k_BKME.shape
    scores = torch.bmm((q_BHLE * E**-0.5).reshape(B * K, -1, E), k_BKME.reshape(B * K, M, E).mT)
    scores.view(B, H, L, M).masked_fill_(~seen_B1LM, -torch.inf)
    return torch.bmm(scores.softmax(-1), v_BKME.reshape(B * K, M, E)).view(B, H, L, E)


def causal_products(q_BHLE: Tensor, k_BKME: Tensor, v_BKME: Tensor) -> Tensor:
    """The same where queries see all keys up to their own: a block of queries with the keys up to its end."""
    parts, end = [], 0
    for block in q_BHLE.split(CAUSAL_BLOCK, 2):
        start, end = end, end + block.shape[2]
        seen_LM = torch.ones(end - start, end, dtype=torch.bool, device=block.device).tril(start)
        parts.append(by_products(block, k_BKME[:, :, :end], v_BKME[:, :, :end], seen_LM))
    return torch.cat(parts, 2)


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
        out_BHLE = attention(spread(q_THE), spread(k_TKE), spread(v_TKE))
        flat = out_BHLE.transpose(1, 2).reshape(B * L, *q_THE.shape[1:])
        return flat if even else flat.index_select(0, slots_T)

    return attend


def positions(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Positions 0, 1, … of every sequence, laid end to end (int64, T)."""
    return torch.cat([torch.arange(n) for n in lengths]).to(device)
