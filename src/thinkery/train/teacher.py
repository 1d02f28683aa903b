"""On-policy distillation (MiniLLM 2306.08543, GKD 2306.13649): a student's own samples, each token judged by a teacher.

Where SFT imitates what a teacher wrote, here the student writes and the reverse KL to the teacher falls:

    KL(student ‖ teacher) = E[log p_student - log p_teacher]      over tokens that the student sampled
    A_t = log p_teacher(token t) - log p_student(token t)

A token's advantage is thus how much more the teacher likes it. It takes the place of the group in the loop of
`train/grpo.py`, so a question needs one attempt only. Later tokens' divergence is not charged to earlier ones (γ = 0).
Teacher and student must have the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinkery.errors import InputError
from thinkery.model.tokenizer import Tokenizer
from thinkery.train.batch import Example
from thinkery.train.policy import Policy
from thinkery.train.share import collected


class Teacher:
    """The baseline of on-policy distillation: a frozen network that gives every sampled token an advantage."""

    reads_old = True

    def __init__(self, policy: Policy, network: Any, *, temperature: float) -> None:
        self.policy, self.temperature = policy, temperature
        self.network = network.to(policy.device).eval().requires_grad_(False)

    @torch.no_grad()
    def compare(self, groups: Sequence[Sequence[Example]]) -> list[list[Example]]:
        """The same attempts with an advantage for each learnt token."""
        attempts = [attempt for group in groups for attempt in group]
        found = self.policy.with_memory(lambda: self.policy.score(self.network, attempts, self.temperature))
        scored = iter(collected(found, self.policy.ranks))
        return [[taught(attempt, next(scored)) for attempt in group] for group in groups]

    def learn(self, attempts: Sequence[Example], *, total: int) -> Mapping[str, float]:
        """Nothing is learnt; tells the reverse KL that was sampled, in nats a token."""
        if not attempts:
            return {}
        return {"distill/reverse_kl": -float(np.concatenate([e.advantage for e in attempts]).mean())}

    def save(self, folder: Path) -> None:
        """Nothing: the teacher is a model of its own."""

    def load(self, folder: Path) -> None:
        """Nothing."""


def taught(attempt: Example, logprobs: Sequence[float]) -> Example:
    """An attempt with the advantage of each token, given the teacher's log-probabilities."""
    return replace(attempt, advantage=np.asarray(logprobs) - np.asarray(attempt.old))


def require_same_tokens(student: Tokenizer, teacher: Tokenizer) -> None:
    """Raise InputError unless every token of one is the same token of the other."""
    ours, theirs = student.backend.get_vocab(), teacher.backend.get_vocab()
    if ours != theirs:
        raise InputError(
            "student and teacher have different tokens",
            found=f"{len(ours)} and {len(theirs)} tokens, {len(ours.items() ^ theirs.items())} of them not shared",
            hint="choose a teacher of the student's family, or distill its samples by SFT",
        )
