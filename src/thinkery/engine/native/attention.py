"""How new tokens see what is in the caches.

One softmax runs over the prompt, which the samples of a group read together as one matrix product, and over what
each sample has said itself.

Shapes: B rows, H query heads, K key/value heads, M = H / K, E head width; P shares of N samples each (padded),
G tokens of room for a prompt, L for a row's own text, T tokens of packed texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from thinkery.engine.native.cache import Cache
from thinkery.model.attention import Attend, fused

QUERIES = 1024
"""Queries of one text that are compared with everything before them at once; bounds the memory of masks."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which rows read which share; rows of heads stand for (row, key/value head)."""

    shares: int
    lengths_B: Tensor
    """Tokens of each row's prompt."""
    members: Tensor
    """Row of heads for every (share, head, sample), 0 where a share has fewer samples than the largest."""
    places: Tensor
    """Where in `members` each row of heads stands."""
    hidden_BG: Tensor
    """Positions in a prompt's room that a row's own prompt does not have."""

    @classmethod
    def of(cls, read: Sequence[tuple[int, int]], room: int, heads: int, device: torch.device) -> Sharing:
        """For rows each of which reads a prompt at (slot, length); prompts have room for as many tokens as said."""
        slots_B, lengths_B = torch.tensor(read).T
        B, P = len(read), int(slots_B.max()) + 1
        earlier_BP = F.one_hot(slots_B, P).cumsum(0)
        numbers_B = earlier_BP.gather(1, slots_B[:, None])[:, 0] - 1
        N = int(numbers_B.max()) + 1
        heads_K = torch.arange(heads)
        rows_PN = torch.zeros(P, N, dtype=torch.int64)
        rows_PN[slots_B, numbers_B] = torch.arange(B)
        members_PKN = rows_PN[:, None] * heads + heads_K[:, None]
        places_BK = (slots_B[:, None] * heads + heads_K) * N + numbers_B[:, None]
        hidden_BG = torch.arange(room) >= lengths_B[:, None]
        return cls(P, *(x.to(device) for x in (lengths_B, members_PKN.flatten(), places_BK.flatten(), hidden_BG)))


def over_prompts_and_own(prompts: Cache, own: Cache, sharing: Sharing, positions_B: Tensor) -> Attend:
    """Attention of one new token per row, stored at `positions_B` of the row's own text."""
    B, K, G = positions_B.shape[0], own.heads, prompts.capacity
    rows_B = torch.arange(B, device=positions_B.device)
    hidden_BL = torch.arange(own.capacity, device=positions_B.device) > positions_B[:, None]
    bias_B1L = bias(torch.cat((sharing.hidden_BG, hidden_BL), dim=1), own.keys[0].dtype)

    def attend(layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
        own.write(layer, rows_B, positions_B, k_BKE, v_BKE)
        keys, values = own.read(layer, B)
        prompt_keys, prompt_values = prompts.read(layer, sharing.shares)
        q, together = by_key(q_BHE, K), (sharing.shares * K, -1)
        scores = torch.bmm(q.index_select(0, sharing.members).view(*together, q.shape[2]), prompt_keys.mT)
        scores = scores.view(-1, q.shape[1], G).index_select(0, sharing.places)
        p = softmax(torch.cat((scores, torch.bmm(q, keys.mT)), dim=2), bias_B1L)
        shared = p[:, :, :G].index_select(0, sharing.members).view(*together, G)
        out = torch.bmm(shared, prompt_values).view(-1, *q.shape[1:]).index_select(0, sharing.places)
        out += torch.bmm(p[:, :, G:], values)
        return out.view(q_BHE.shape)

    return attend


def over_cache(cache: Cache, positions_B: Tensor) -> Attend:
    """Attention of one new token per slot, stored at `positions_B`."""
    B = positions_B.shape[0]
    rows_B = torch.arange(B, device=positions_B.device)
    hidden_BL = torch.arange(cache.capacity, device=positions_B.device) > positions_B[:, None]
    bias_B1L = bias(hidden_BL, cache.keys[0].dtype)

    def attend(layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
        cache.write(layer, rows_B, positions_B, k_BKE, v_BKE)
        keys, values = cache.read(layer, B)
        p = softmax(torch.bmm(by_key(q_BHE, cache.heads), keys.mT), bias_B1L)
        return torch.bmm(p, values).view(q_BHE.shape)

    return attend


def by_key(q_BHE: Tensor, heads: int) -> Tensor:
    """Scaled queries as rows of heads [B·K, M, E]: those that share a key are rows of one product."""
    B, _, E = q_BHE.shape
    return (q_BHE * E**-0.5).reshape(B * heads, -1, E)


def bias(hidden_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """bias_B1L, to be added to scores: -inf where nothing is to be seen."""
    zeros_BL = torch.zeros(hidden_BL.shape, dtype=dtype, device=hidden_BL.device)
    return zeros_BL.masked_fill_(hidden_BL, -torch.inf)[:, None]


def softmax(scores: Tensor, bias_B1L: Tensor) -> Tensor:
    """Probabilities [B·K, M, L] from scores, which are changed."""
    B, _, L = bias_B1L.shape
    scores.view(B, -1, L).add_(bias_B1L)
    return scores.softmax(-1)


def after(parts: Sequence[tuple[Tensor, int, int]]) -> Attend:
    """Causal attention of tokens `done` to `end` of several texts laid end to end, given as (kv_XITKE, done, end), into
    which their keys and values are written."""

    def attend(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
        outs, start = [], 0
        for kv_XITKE, done, end in parts:
            here = slice(start, start + end - done)
            keys_TKE, values_TKE = kv_XITKE[:, layer]
            keys_TKE[done:end], values_TKE[done:end] = k_TKE[here], v_TKE[here]
            outs.append(causal(q_THE[here], keys_TKE[:end], values_TKE[:end]))
            start = here.stop
        return torch.cat(outs)

    return attend


def causal(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
    """Attention of the last tokens of a text to everything up to themselves."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THE, k_TKE, v_TKE))
    outs, before = [], k.shape[2] - q.shape[2]
    for start in range(0, q.shape[2], QUERIES):
        some = q[:, :, start : start + QUERIES]
        end = before + start + some.shape[2]
        seen = torch.ones(some.shape[2], end, dtype=torch.bool, device=q.device).tril(before + start)
        outs.append(fused(some, k[:, :, :end], v[:, :, :end], seen))
    return torch.cat(outs, dim=2)[0].transpose(0, 1)
