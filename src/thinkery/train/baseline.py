"""What an attempt's reward is compared with to become an advantage: the other attempts at its question, or a critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from thinkery.core import Group, Rollout
from thinkery.train import loss
from thinkery.train.batch import Example


class Baseline(Protocol):
    """Gives advantages to the attempts of a rollout, and may learn from each update; `train/ppo.py` has one."""

    reads_old: bool
    """Whether it needs the attempts' `old` log-probabilities."""
    needs_spread: bool
    """Whether nothing is learnt from a group whose rewards are equal."""

    def compare(self, groups: Sequence[Sequence[Example]]) -> list[list[Example]]:
        """The same attempts with advantages, group by group."""
        ...

    def learn(self, attempts: Sequence[Example], *, total: int) -> Mapping[str, float]:
        """Learn from the attempts of one update of `total`; returns metrics."""
        ...

    def save(self, folder: Path) -> None:
        """Add what it has learnt to a checkpoint."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        ...


class GroupBaseline:
    """GRPO's baseline (R1 v2 eq. 3): a group's own rewards. It has no weights, so nothing is learnt or saved."""

    reads_old = False
    needs_spread = True

    def __init__(self, mode: loss.Advantage) -> None:
        self.mode: loss.Advantage = mode

    def compare(self, groups: Sequence[Sequence[Example]]) -> list[list[Example]]:
        """The same attempts, each with one advantage."""
        return [compared(group, self.mode) for group in groups]

    def learn(self, attempts: Sequence[Example], *, total: int) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def save(self, folder: Path) -> None:
        """Nothing."""

    def load(self, folder: Path) -> None:
        """Nothing."""


def compared(group: Sequence[Example], mode: loss.Advantage) -> list[Example]:
    """The attempts of a group with the advantage of each inside it; all 0 where the rewards are equal."""
    rewards_G = torch.tensor([attempt.reward for attempt in group], dtype=torch.float64)
    gains = loss.advantages(rewards_G, mode).tolist()
    return [replace(attempt, advantage=gain) for attempt, gain in zip(group, gains, strict=True)]


def attempts(group: Group) -> list[Example]:
    """A group's attempts to learn from, without advantages yet."""
    return [example(rollout) for rollout in group.rollouts if learnable(rollout)]


def learnable(rollout: Rollout) -> bool:
    """Whether an attempt has a grade and at least one token."""
    return rollout.reward is not None and len(rollout.completion.tokens) > 0


def example(rollout: Rollout) -> Example:
    """An attempt as a sequence to learn from: the prompt is given, the completion is learnt."""
    completion = rollout.completion
    return Example(
        np.array((*rollout.prompt, *completion.tokens), dtype=np.int32),
        learn_from=len(rollout.prompt),
        reward=rollout.reward or 0.0,
        old=completion.logprobs,
        sampler=completion.logprobs,
    )


def gains(group: Group, learnt: Sequence[Example]) -> list[float | None]:
    """The mean advantage of every attempt of a group, given what was learnt from it; None where nothing was."""
    found = (float(np.mean(attempt.advantage)) for attempt in learnt)
    return [next(found, None) if learnable(rollout) else None for rollout in group.rollouts]
