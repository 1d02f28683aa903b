"""Sequences to learn from, laid end to end in micro-batches without padding.

Training sorts by length and packs (R1 v2 §B.1): sequences of similar length share a micro-batch, the longest
come first, so a batch that does not fit in memory is met at the start of an update and not at its end.

Shapes: T tokens of a micro-batch, C of them learnt ("completion tokens").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence: its first `learn_from` tokens are given, every later token is learnt.

    `learn_from` is at least 1, because the first token has nothing to be predicted from. The three
    log-probability fields hold one number for each learnt token, or nothing where they are not needed:
    `old` of the policy that the ratio is taken against, `reference` of the frozen model of the KL term,
    `sampler` as the engine reported them.
    """

    tokens: Sequence[int] | np.ndarray
    learn_from: int = 1
    advantage: float = 0.0
    old: Numbers = ()
    reference: Numbers = ()
    sampler: Numbers = ()

    @property
    def learnt(self) -> int:
        """How many tokens are learnt."""
        return len(self.tokens) - self.learn_from


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: several examples end to end, with the learnt tokens picked out.

    `learnt[i]` counts the learnt tokens of sequence i; every `_C` field lists them sequence by sequence.
    """

    tokens_T: Tensor
    """Token ids of all sequences (int64)."""
    lengths: tuple[int, ...]
    """Tokens of each sequence; they sum to T."""
    learnt: tuple[int, ...]
    """Learnt tokens of each sequence; they sum to C."""
    predictors_C: Tensor
    """Where in T the hidden state stands that predicts each learnt token."""
    labels_C: Tensor
    """The learnt tokens."""
    advantages_C: Tensor
    """The advantage of each learnt token's sequence."""
    old_C: Tensor | None
    """Log-probabilities under the policy that the ratio is taken against."""
    reference_C: Tensor | None
    """Log-probabilities under the frozen reference."""
    sampler_C: Tensor | None
    """Log-probabilities that the engine reported."""
    examples: tuple[int, ...]
    """The place of each sequence in the list that was packed."""


def pack(examples: Sequence[Example], max_tokens: int, device: torch.device | str = "cpu") -> list[Batch]:
    """Micro-batches of at most `max_tokens` tokens, the longest sequences first; a longer sequence stands alone."""
    return [collate(examples, places, device) for places in arrange([len(e.tokens) for e in examples], max_tokens)]


def arrange(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """The places of the sequences that share a micro-batch, sorted from long to short."""
    shared: list[int] = []
    room = max_tokens
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if shared and lengths[place] > room:
            yield shared
            shared, room = [], max_tokens
        shared.append(place)
        room -= lengths[place]
    if shared:
        yield shared


def collate(examples: Sequence[Example], places: Sequence[int], device: torch.device | str) -> Batch:
    """The examples at `places` as one micro-batch."""
    chosen = [examples[i] for i in places]
    lengths = np.array([len(e.tokens) for e in chosen])
    learnt = np.array([e.learnt for e in chosen])
    ends = np.cumsum(lengths)
    predictors = np.concatenate([np.arange(end - n - 1, end - 1) for end, n in zip(ends, learnt, strict=True)])
    tokens_T = torch.from_numpy(np.concatenate([np.asarray(e.tokens, dtype=np.int64) for e in chosen])).to(device)
    predictors_C = torch.from_numpy(predictors).to(device)
    advantages = np.repeat(np.array([e.advantage for e in chosen], dtype=np.float32), learnt)
    return Batch(
        tokens_T=tokens_T,
        lengths=tuple(lengths.tolist()),
        learnt=tuple(learnt.tolist()),
        predictors_C=predictors_C,
        labels_C=tokens_T[predictors_C + 1],
        advantages_C=torch.from_numpy(advantages).to(device),
        old_C=joined([e.old for e in chosen], device),
        reference_C=joined([e.reference for e in chosen], device),
        sampler_C=joined([e.sampler for e in chosen], device),
        examples=tuple(places),
    )


def joined(parts: Sequence[Numbers], device: torch.device | str) -> Tensor | None:
    """The parts end to end as float32; None when the examples do not carry this field."""
    if not any(len(part) for part in parts):
        return None
    return torch.from_numpy(np.concatenate([np.asarray(part, dtype=np.float32) for part in parts])).to(device)
