"""A look before the leap: sample a few completions and say whether RL can learn anything from them.

The two commonest reasons for a reward that stays flat are completions that are cut before their answer, and a
format that the model or its template cannot produce. Both show in 64 samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from statistics import fmean

from thinkery.core import Group, Sampling, Task
from thinkery.engine.base import LearningEngine
from thinkery.errors import RunFailed, Ungradable
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.rollout import shared_rollouts
from thinkery.train.metrics import mean_accuracy

ATTEMPTS = 4
"""Samples of each task."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the samples say; every share is of the sampled completions or groups."""

    completions: int
    truncated: float
    accuracy: float
    parts: Mapping[str, float]
    """The mean of every part of the reward."""
    identical: bool
    """Every attempt at every task earned the same reward."""
    no_spread: float
    """Groups of the training size expected to earn equal rewards, if a task's samples show how often each comes."""

    @property
    def line(self) -> str:
        """What is worth a glance, truncation first."""
        shares = f"{self.truncated:.0%} cut, {self.accuracy:.0%} right"
        return f"preflight: of {self.completions} completions {shares}; about {self.no_spread:.0%} of groups flat"


def preflight(
    run: Run,
    engine: LearningEngine,
    tasks: Sequence[Task],
    rubric: Rubric,
    sampling: Sampling,
    *,
    group_size: int,
    completions: int = 64,
) -> Findings:
    """Sample, say what was found, warn where it is poor, and refuse where RL could not learn.

    Raises RunFailed, naming the setting to change, when nine in ten completions are cut, or when all rewards are
    equal and no completion has the form that is asked for; Ungradable when a fifth has no grade.
    """
    count = min(len(tasks), -(-completions // ATTEMPTS))
    chosen = Random(run.seed).sample(tasks, count)
    groups = shared_rollouts(run.ranks, engine, chosen, sampling, rubric, samples=ATTEMPTS, seed=run.seed, step=-1)
    refuse_ungraded(groups, limit=0.2)
    findings = look(groups, group_size)
    run.event("preflight", **asdict(findings))
    run.note(findings.line)
    refuse(findings, sampling)
    for setting, message, advice in warnings(findings):
        run.alarm("preflight", message, setting, advice)
    return findings


def look(groups: Sequence[Group], group_size: int) -> Findings:
    """What these groups say about the training to come."""
    attempts = [r for g in groups for r in g.rollouts]
    names = dict.fromkeys(name for r in attempts for name in r.scores)
    values = {n: [s.value for r in attempts if (s := r.scores.get(n)) and s.value is not None] for n in names}
    return Findings(
        completions=len(attempts),
        truncated=fmean(r.completion.finish == "length" for r in attempts),
        accuracy=fmean(mean_accuracy(g) for g in groups),
        parts={name: fmean(found) for name, found in values.items() if found},
        identical=len({r.reward for r in attempts}) == 1,
        no_spread=fmean(equal_chance(g, group_size) for g in groups) if group_size > 1 else 0.0,
    )


def equal_chance(group: Group, group_size: int) -> float:
    """The chance that so many attempts at this task all earn the same, were rewards drawn from those of this group."""
    graded = Counter(reward for reward in group.rewards if reward is not None)
    return sum((count / graded.total()) ** group_size for count in graded.values())


def refuse(findings: Findings, sampling: Sampling) -> None:
    """Raise RunFailed where there is nothing to learn from."""
    if findings.truncated >= 0.9:
        raise RunFailed(
            f"{findings.truncated:.0%} of {findings.completions} completions are cut before they end",
            where="preflight",
            found=f"max_tokens {sampling.max_tokens}",
            hint="raise grpo.max_tokens, or start from a model that has learnt to stop (a short SFT)",
        )
    if findings.identical and findings.parts.get("format") == 0.0:
        raise RunFailed(
            f"none of {findings.completions} completions has the form that the format reward asks for",
            where="preflight",
            found="all rewards equal",
            hint="check that the chat template and the format reward agree, or start from a cold-started model",
        )


def warnings(findings: Findings) -> list[tuple[str, str, str]]:
    """(setting, message, advice) for everything that will make learning slow."""
    found: list[tuple[str, str, str]] = []
    choose = "set it to 8 to leave out tasks that are always or never solved, or collect others"
    if findings.identical:
        seen = f"all rewards are equal, with accuracy {findings.accuracy:.2f}: too easy or too hard"
        found.append(("grpo.pool.samples", seen, choose))
    if findings.truncated >= 0.3:
        found.append(("grpo.max_tokens", f"{findings.truncated:.0%} of completions are cut", "allow twice the length"))
    if findings.no_spread >= 0.8:
        seen = f"about {findings.no_spread:.0%} of groups will have equal rewards"
        found.append(("grpo.pool.samples", seen, choose))
    if findings.parts.get("format", 1.0) < 0.05:
        seen = f"only {findings.parts['format']:.0%} of completions have the right form"
        found.append(("template", seen, "ask in words that the model knows, or begin with a cold start"))
    return found


def refuse_ungraded(groups: Sequence[Group], limit: float) -> None:
    """End the run when more than `limit` of the attempts have no grade; the error names the commonest reason."""
    attempts = [r for g in groups for r in g.rollouts]
    ungraded = [r for r in attempts if r.reward is None]
    if len(ungraded) <= limit * len(attempts):
        return
    reasons = [f"{name}: {s.reason}" for r in ungraded for name, s in r.scores.items() if s.value is None]
    raise Ungradable(
        f"{len(ungraded)} of {len(attempts)} attempts could not be graded",
        found=max(set(reasons), key=reasons.count) if reasons else "no reason given",
        hint="repair the reward or the tasks' gold answers, or raise grpo.max_ungraded",
    )
