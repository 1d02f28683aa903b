"""From judged groups to estimates: pass@1, pass@k, cons@k, every other reward, truncation and lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from thinkery.core import Completion, Group, Task
from thinkery.evals.metrics import Estimate, cons_at_k, mean_estimate, pass_at_k, share_estimate
from thinkery.rewards.extract import final_answer

Extract = Callable[[Completion, str], str | None]
"""(completion, kind of task) → the final answer."""

SLICES: dict[str, Callable[[Task], Any]] = {
    "kind": lambda task: task.kind,
    "language": lambda task: task.language,
    "difficulty": lambda task: task.info.get("difficulty"),
}
"""What accuracy is broken down by, where the tasks differ in it."""


def measure(
    groups: Sequence[Group], *, extract: Extract = final_answer, answer_length: Callable[[str], int] | None = None
) -> dict[str, Estimate]:
    """Estimates by name, from equally large groups; a metric that no group has is left out.

    pass@1, pass@k and cons@k need a reward called accuracy; every other reward appears under its own name.
    `truncated` and `ungraded` are shares of the attempts; `length` is tokens of the whole completion, parted into
    `thought_length` and `answer_length` when `answer_length` can count an answer's tokens.
    """
    if not groups:
        return {}
    samples = len(groups[0].rollouts)
    found = {"truncated": _share(groups, lambda group: [said.finish == "length" for said in _said(group)], samples)}
    found |= accuracy(groups, extract)
    for name in _rewards(groups):
        found |= _named(name, [scores for group in groups if (scores := _scores(group, name))], samples)
    found["ungraded"] = _share(groups, lambda group: [reward is None for reward in group.rewards], samples)
    return found | lengths(groups, answer_length)


def accuracy(groups: Sequence[Group], extract: Extract = final_answer) -> dict[str, Estimate]:
    """pass@1 (also by kind, language and difficulty), pass@k and cons@k over the questions with a graded attempt."""
    graded = [group for group in groups if _scores(group, "accuracy")]
    if not graded:
        return {}
    k = len(graded[0].rollouts)
    found = {"pass@1": _pass_at_1(graded)}
    if k > 1:
        found[f"pass@{k}"] = share_estimate([_any_right(group) for group in graded])
        found[f"cons@{k}"] = share_estimate([cons_at_k(_votes(group, extract)) for group in graded])
    for name, of in SLICES.items():
        values = sorted({of(group.task) for group in graded} - {None}, key=lambda value: (str(type(value)), value))
        if len(values) > 1:
            found |= {f"pass@1/{name}={v}": _pass_at_1([g for g in graded if of(g.task) == v]) for v in values}
    return found


def lengths(groups: Sequence[Group], answer_length: Callable[[str], int] | None) -> dict[str, Estimate]:
    """Mean tokens of a completion, and of its thought (tags included) and answer where answers can be counted."""
    found = {"length": mean_estimate([fmean(len(said.tokens) for said in _said(group)) for group in groups])}
    if answer_length is None:
        return found
    parts = [[_parts(said, answer_length) for said in _said(group)] for group in groups]
    found["thought_length"] = mean_estimate([fmean(thought for thought, _ in group) for group in parts])
    found["answer_length"] = mean_estimate([fmean(answer for _, answer in group) for group in parts])
    return found


def _pass_at_1(groups: Sequence[Group]) -> Estimate:
    return _named("pass@1", [_scores(group, "accuracy") for group in groups], len(groups[0].rollouts))["pass@1"]


def _any_right(group: Group) -> float:
    scores = _scores(group, "accuracy")
    return pass_at_k(len(scores), sum(score >= 1 for score in scores), len(scores))


def _votes(group: Group, extract: Extract) -> list[tuple[str | None, bool]]:
    judged = [(r, r.scores["accuracy"].value) for r in group.rollouts if "accuracy" in r.scores]
    return [(extract(r.completion, r.task.kind), value >= 1) for r, value in judged if value is not None]


def _scores(group: Group, name: str) -> list[float]:
    """The graded values of one reward in a group."""
    scores = [r.scores[name].value for r in group.rollouts if name in r.scores]
    return [score for score in scores if score is not None]


def _rewards(groups: Sequence[Group]) -> list[str]:
    """The rewards besides accuracy, in the order of the rubric."""
    names = dict.fromkeys(name for group in groups for rollout in group.rollouts for name in rollout.scores)
    return [name for name in names if name != "accuracy"]


def _named(name: str, values: Sequence[Sequence[float]], samples: int) -> dict[str, Estimate]:
    """A share where every value lies in [0, 1], else a mean; nothing where there is no value."""
    if not values:
        return {}
    means = [fmean(one) for one in values]
    share = all(0 <= value <= 1 for one in values for value in one)
    return {name: share_estimate(means, samples) if share else mean_estimate(means)}


def _share(groups: Sequence[Group], of: Callable[[Group], list[bool]], samples: int) -> Estimate:
    return share_estimate([fmean(of(group)) for group in groups], samples)


def _parts(said: Completion, answer_length: Callable[[str], int]) -> tuple[int, int]:
    """Tokens of the thought and of the answer."""
    answer = len(said.tokens) if said.thought is None else min(len(said.tokens), answer_length(said.answer))
    return len(said.tokens) - answer, answer


def _said(group: Group) -> list[Completion]:
    return [rollout.completion for rollout in group.rollouts]
