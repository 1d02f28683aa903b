"""From judged groups to estimates: pass@1, pass@k, cons@k, every other reward, truncation, loops and lengths.

    tally = Tally(pass_at=(8,))
    for group in groups:
        tally.add(group)
    tally.estimates()["pass@8"]      # {"value": 0.62, "low": 0.55, "high": 0.69, "n": 200}

A tally keeps a few numbers of each question, so any number of groups stream through it, in any order.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, Protocol

from thinkery.core import Completion, Group, Task
from thinkery.evals.metrics import Estimate, cons_at_k, mean_estimate, pass_at_k, share_estimate
from thinkery.rewards.environment import answer_form
from thinkery.rewards.extract import final_answer
from thinkery.rewards.shaping import repetition

Extract = Callable[[Completion, str], str | None]
"""(completion, kind of task, or form of an environment's answers) → the final answer."""

SLICES: dict[str, Callable[[Task], Any]] = {
    "kind": lambda task: task.kind,
    "language": lambda task: task.language,
    "difficulty": lambda task: task.info.get("difficulty"),
    "environment": lambda task: task.environment or None,
    "source": lambda task: task.source or None,
}
"""What accuracy is broken down by, where the tasks differ in it."""

CUT = 0.1
"""Share of answers cut at the length limit from which on accuracy says more of the limit than of the model."""

LENGTHS = ("length", "thought_length", "answer_length", "characters")
Over = Literal["attempts", "questions", "mean"]
"""What an interval is that of: a share of attempts at questions, a share of questions, or a mean."""


class Figures(Protocol):
    """Numbers that a benchmark works out in its own way, from groups as they come in."""

    @property
    def names(self) -> Sequence[str]:
        """The metrics that `estimates` may have."""
        ...

    def add(self, group: Group) -> None:
        """Take in one question."""
        ...

    def estimates(self) -> dict[str, Estimate]:
        """The numbers by name."""
        ...

    def notes(self) -> list[str]:
        """What a reader of the numbers must know."""
        ...


@dataclass(slots=True)
class _Column:
    """One metric: a value for each question."""

    place: tuple[Any, ...]
    """Where it stands among the others."""
    over: Over
    values: array[float] = field(default_factory=lambda: array("d"))
    is_share: bool = True

    def add(self, values: Sequence[float]) -> None:
        """The mean of what the attempts at one question earned."""
        self.values.append(fmean(values))
        self.is_share = self.is_share and all(0 <= value <= 1 for value in values)

    def estimate(self, samples: int) -> Estimate:
        """A share where every value lies in [0, 1], else a mean."""
        if self.over == "mean" or not self.is_share:
            return mean_estimate(self.values)
        return share_estimate(self.values, samples if self.over == "attempts" else 1)


class Tally:
    """Judged groups of equal size as they come in; a metric that no group has is left out.

    pass@1, pass@k and cons@k need a reward called accuracy; every other reward appears under its own name. k is the
    number of attempts; pass@k for the smaller ones of `pass_at` is the unbiased estimate from all attempts. `extract`
    finds the answers that vote in cons@k. With a reward called format, `pass@1/well-formed` is the accuracy of the
    attempts that earn all of it. `truncated` and `ungraded` are shares of the attempts, `repeated` is the share of a
    text's 8-grams that occurred in it before: what does not end often goes in circles. `length` is in tokens of the
    whole completion, or `characters` where an endpoint does not give its tokens.
    """

    def __init__(self, *, extract: Extract = final_answer, pass_at: Sequence[int] = ()) -> None:
        self._extract, self._pass_at = extract, pass_at
        self._samples = 0
        self._columns: dict[str, _Column] = {}

    def add(self, group: Group, answer_tokens: Sequence[int] | None = None) -> None:
        """Take in one question; the tokens of each attempt's answer part its length into thought and answer."""
        self._samples = self._samples or len(group.rollouts)
        self._note("truncated", (0, 0), [rollout.completion.finish == "length" for rollout in group.rollouts])
        self._note("repeated", (0, 1), [repetition(rollout.completion.text) for rollout in group.rollouts])
        if right := _scores(group, "accuracy"):
            self._add_accuracy(group, right)
        for name in _rewards(group):
            if scores := _scores(group, name):
                self._note(name, (2,), scores)
        self._note("ungraded", (3,), [reward is None for reward in group.rewards])
        self._add_lengths(group, answer_tokens)

    def estimates(self) -> dict[str, Estimate]:
        """Everything that was measured: truncation, loops, accuracy, the other rewards, the ungraded, lengths."""
        values = Counter(name.partition("=")[0] for name in self._columns if "=" in name)
        shown = [name for name in self._columns if "=" not in name or values[name.partition("=")[0]] > 1]
        return {
            name: self._columns[name].estimate(self._samples)
            for name in sorted(shown, key=lambda name: self._columns[name].place)
        }

    def _add_accuracy(self, group: Group, right: Sequence[float]) -> None:
        k = len(group.rollouts)
        self._note("pass@1", (1, 0), right)
        wins = sum(score >= 1 for score in right)
        for fewer in self._pass_at:
            if fewer < k and fewer <= len(right):
                self._note(f"pass@{fewer}", (1, 1, fewer), [pass_at_k(len(right), wins, fewer)], "questions")
        if k > 1:
            self._note(f"pass@{k}", (1, 1, k), [float(wins > 0)], "questions")
            self._note(f"cons@{k}", (1, 2), [cons_at_k(_votes(group, self._extract))], "questions")
        for i, (name, of) in enumerate(SLICES.items()):
            if (value := of(group.task)) is not None:
                self._note(f"pass@1/{name}={value}", (1, 3, i, str(type(value)), value), right)
        if formed := _well_formed(group):
            self._note("pass@1/well-formed", (1, 4), formed)

    def _add_lengths(self, group: Group, answer_tokens: Sequence[int] | None) -> None:
        said = [rollout.completion for rollout in group.rollouts]
        if not any(one.tokens for one in said):
            self._note("characters", (4, 3), [len(one.text) for one in said], "mean")
            return
        self._note("length", (4, 0), [len(one.tokens) for one in said], "mean")
        if answer_tokens is not None:
            parts = [_parts(one, answer) for one, answer in zip(said, answer_tokens, strict=True)]
            self._note("thought_length", (4, 1), [thought for thought, _ in parts], "mean")
            self._note("answer_length", (4, 2), [answer for _, answer in parts], "mean")

    def _note(self, name: str, place: tuple[Any, ...], values: Sequence[float], over: Over = "attempts") -> None:
        self._columns.setdefault(name, _Column(place, over)).add(values)


def measure(
    groups: Iterable[Group], *, extract: Extract = final_answer, answer_length: Callable[[str], int] | None = None
) -> dict[str, Estimate]:
    """The estimates of these groups; `answer_length` counts an answer's tokens."""
    tally = Tally(extract=extract)
    for group in groups:
        tally.add(group, count_answers(group, answer_length))
    return tally.estimates()


def count_answers(group: Group, answer_length: Callable[[str], int] | None) -> list[int] | None:
    """The tokens of each attempt's answer; None where nothing can count them."""
    return answer_length and [answer_length(rollout.completion.answer) for rollout in group.rollouts]


def cut_note(metrics: Mapping[str, Estimate]) -> str:
    """A line where many of the answers behind these estimates were cut; "" elsewhere."""
    share = metrics["truncated"]["value"] if "truncated" in metrics else 0.0
    return f"{share:.0%} of the answers were cut at the length limit, which makes them wrong" if share >= CUT else ""


def metric_names(tasks: Iterable[Task], rewards: Iterable[str], samples: int, pass_at: Sequence[int] = ()) -> list[str]:
    """The metrics that a tally of `samples` attempts at these tasks, judged by these rewards, may have."""
    rewards = list(rewards)
    found = ["truncated", "repeated"]
    if "accuracy" in rewards:
        found += ["pass@1", *(f"pass@{k}" for k in (*pass_at, samples) if k > 1)]
        found += [f"cons@{samples}"] if samples > 1 else []
        found += sorted({f"pass@1/{name}={of(task)}" for task in tasks for name, of in SLICES.items()})
        found += ["pass@1/well-formed"] if "format" in rewards else []
    return [*found, *(name for name in rewards if name != "accuracy"), "ungraded", *LENGTHS]


def _votes(group: Group, extract: Extract) -> list[tuple[str | None, bool]]:
    judged = [(r, r.scores["accuracy"].value) for r in group.rollouts if "accuracy" in r.scores]
    return [(extract(r.completion, answer_form(r.task)), value >= 1) for r, value in judged if value is not None]


def _scores(group: Group, name: str) -> list[float]:
    """The graded values of one reward in a group."""
    scores = [r.scores[name].value for r in group.rollouts if name in r.scores]
    return [score for score in scores if score is not None]


def _rewards(group: Group) -> list[str]:
    """The rewards besides accuracy, in the order of the rubric."""
    names = dict.fromkeys(name for rollout in group.rollouts for name in rollout.scores)
    return [name for name in names if name != "accuracy"]


def _well_formed(group: Group) -> list[float]:
    """The accuracy of the attempts that earn the whole reward for format."""
    formed = [r.scores for r in group.rollouts if "format" in r.scores and (r.scores["format"].value or 0) >= 1]
    values = [scores["accuracy"].value for scores in formed if "accuracy" in scores]
    return [value for value in values if value is not None]


def _parts(said: Completion, answer_tokens: int) -> tuple[int, int]:
    """Tokens of the thought, tags included, and of the answer."""
    answer = len(said.tokens) if said.thought is None else min(len(said.tokens), answer_tokens)
    return len(said.tokens) - answer, answer
