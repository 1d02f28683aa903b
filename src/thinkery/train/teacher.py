"""On-policy distillation (MiniLLM 2306.08543, GKD 2306.13649): a student's own samples, each token judged by a teacher.

Where SFT imitates what a teacher wrote, here the student writes and the reverse KL to the teacher falls:

    KL(student ‖ teacher) = E[log p_student - log p_teacher]      over tokens that the student sampled
    A_t = log p_teacher(token t) - log p_student(token t)

A token's advantage is thus how much more the teacher likes it. It takes the place of the group in the loop of
`train/grpo.py`, so a question needs one attempt only. Later tokens' divergence is not charged to earlier ones (γ = 0).
Teacher and student must have the same tokens.

The teacher computes in the student's own process (`beside`), or in members of a pool (`elsewhere`): processes or actors
that do `run_teacher`, or servers of vLLM. What it computes is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinkery.engine.member import Alive, Broken, Scorer, Text
from thinkery.engine.scoring import Scorers
from thinkery.errors import InputError, ThinkeryError
from thinkery.model.hf import load_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.process import Channel, work
from thinkery.train.batch import Example, packing, per_example
from thinkery.train.optim import LearnerConfig
from thinkery.train.policy import Policy, token_logprobs
from thinkery.train.share import collected, evenly

Judge = Callable[[Sequence[Example]], Sequence[Sequence[float]]]
"""The teacher's log-probabilities of every example's learnt tokens, on every rank."""


class Teacher:
    """The baseline of on-policy distillation: what judges every sampled token gives it an advantage."""

    reads_old = True
    needs_spread = False

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def compare(self, groups: Sequence[Sequence[Example]]) -> list[list[Example]]:
        """The same attempts with an advantage for each learnt token."""
        scored = iter(self.judge([attempt for group in groups for attempt in group]))
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


def beside(policy: Policy, network: Any, temperature: float) -> Judge:
    """A teacher in the student's own processes, each of which judges its share; `network` is the policy's `frozen`."""

    @torch.no_grad()
    def judge(attempts: Sequence[Example]) -> list[list[float]]:
        found = policy.with_memory(lambda: policy.score(network, attempts, temperature))
        return collected(found, policy.ranks)

    return judge


def elsewhere(policy: Policy, scorers: Scorers | None, temperature: float) -> Judge:
    """A teacher that rank 0 asks, which alone has the scorers, in micro-batches of the policy's size."""

    def judge(attempts: Sequence[Example]) -> list[Sequence[float]]:
        return policy.ranks.tell(asked(policy, scorers, attempts, temperature) if scorers else [])

    return judge


def asked(policy: Policy, scorers: Scorers, attempts: Sequence[Example], temperature: float) -> list[Sequence[float]]:
    """What the scorers make of the attempts, in their order."""
    packed = evenly(partial(policy.pack, attempts), policy.micro_batch_tokens, scorers.members.count)
    texts = [[Text(attempts[i].tokens, attempts[i].learn_from) for i in batch.examples] for batch in packed]
    places = [i for batch in packed for i in batch.examples]
    found = [one for scored in scorers.logprobs(texts, temperature) for one in scored]
    by_place = dict(zip(places, found, strict=True))
    return [by_place[i] for i in range(len(attempts))]


def run_teacher(connection: Channel, folder: Path, cfg: LearnerConfig, device: str) -> None:
    """What a member does: load the teacher from a folder, and judge what it is sent with the student's settings."""
    try:
        network = load_model(folder)[0].to(device).eval().requires_grad_(False)
        connection.send(Alive())
        work(connection, Scorer(connection, partial(judged, network, cfg)))
    except ThinkeryError as error:
        connection.send(Broken(error))


@torch.no_grad()
def judged(network: Any, cfg: LearnerConfig, texts: Sequence[Text], temperature: float) -> list[list[float]]:
    """The network's log-probabilities of the texts' tokens that are not given."""
    examples = [Example(text.tokens, text.given) for text in texts]
    device = next(network.parameters()).device
    batches = packing(network)(examples, cfg.micro_batch_tokens, device)
    return per_example(len(examples), batches, lambda batch: token_logprobs(network, batch, temperature, cfg)[0])


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
