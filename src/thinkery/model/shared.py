"""Attention of several continuations that share a prompt: the prompt is there once, not once for each of them.

A group is laid out as its prompt and then its continuations, end to end; groups follow each other. Everything but the
attention, and the keys and values of the prompts too, is computed once per token of this layout. GRPO asks every
question many times, so for short answers this halves the tokens of an update.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from thinkery.model.attention import Attend, attention

Group = tuple[int, tuple[int, ...]]
"""Tokens of the prompt, and of each continuation."""


def shared_causal(groups: Sequence[Group], device: torch.device | str = "cpu") -> Attend:
    """Causal attention in which a continuation sees its prompt and itself; for groups laid end to end.

    Prompts and continuations are padded to the longest for the attention alone.
    """
    prompt_of = torch.tensor([i for i, (_, parts) in enumerate(groups) for _ in parts], device=device)
    prompts = Padded([n for n, _ in groups], starts(groups, prompts=True), device)
    parts = Padded([n for _, some in groups for n in some], starts(groups, prompts=False), device)
    known_BP = prompts.filled[prompt_of]
    own_LL = torch.ones(parts.longest, parts.longest, dtype=torch.bool, device=device).tril()
    mask_B1LM = torch.cat(
        (
            known_BP[:, None, None, :].expand(-1, 1, parts.longest, -1),
            own_LL[None, None].expand(len(prompt_of), 1, -1, -1),
        ),
        dim=-1,
    )

    def attend(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
        k_PKE, v_PKE = prompts.spread(k_TKE), prompts.spread(v_TKE)
        asked = attention(prompts.spread(q_THE), k_PKE, v_PKE)
        k_BKME, v_BKME = (
            torch.cat((known.index_select(0, prompt_of), parts.spread(own)), dim=2)
            for known, own in ((k_PKE, k_TKE), (v_PKE, v_TKE))
        )
        said = attention(parts.spread(q_THE), k_BKME, v_BKME, mask_B1LM)
        out_THE = q_THE.new_empty(q_THE.shape, dtype=said.dtype)
        out_THE = out_THE.index_copy(0, prompts.tokens, prompts.gather(asked))
        return out_THE.index_copy(0, parts.tokens, parts.gather(said))

    return attend


def shared_positions(groups: Sequence[Group], device: torch.device | str = "cpu") -> Tensor:
    """Positions in the layout: every continuation goes on where its prompt ends (int64, T)."""
    return torch.cat(
        [torch.cat([torch.arange(n), *(torch.arange(n, n + part) for part in parts)]) for n, parts in groups]
    ).to(device)


def starts(groups: Sequence[Group], *, prompts: bool) -> list[int]:
    """Where in the layout each prompt, or each continuation, begins."""
    found, at = [], 0
    for prompt, parts in groups:
        for number, length in enumerate(chain((prompt,), parts)):
            if (number == 0) == prompts:
                found.append(at)
            at += length
    return found


class Padded:
    """Stretches of the layout as rows of equal length, and back."""

    def __init__(self, lengths: Sequence[int], begins: Sequence[int], device: torch.device | str) -> None:
        self.count, self.longest = len(lengths), max(lengths)
        pairs = list(zip(begins, lengths, strict=True))
        self.tokens = torch.cat([torch.arange(b, b + n) for b, n in pairs]).to(device)
        """Where in the layout their tokens stand."""
        self.slots = torch.cat([torch.arange(n) + i * self.longest for i, n in enumerate(lengths)]).to(device)
        """Where among the rows they go."""
        self.filled = torch.arange(self.longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        """Which places of each row hold a token."""

    def spread(self, x_TNE: Tensor) -> Tensor:
        """Rows x_BNLE, zeros behind the end of each."""
        rows = x_TNE.new_zeros(self.count * self.longest, *x_TNE.shape[1:])
        rows = rows.index_copy(0, self.slots, x_TNE.index_select(0, self.tokens))
        return rows.view(self.count, self.longest, *x_TNE.shape[1:]).transpose(1, 2)

    def gather(self, x_BNLE: Tensor) -> Tensor:
        """The tokens of the rows, one after another."""
        return x_BNLE.transpose(1, 2).flatten(0, 1).index_select(0, self.slots)
