"""Whether a model says the same whatever it is asked: accuracy from the most frequent answer is a guess, not a skill.

    "94 of 96 answers to letter_counting are '1', which is right in 50 %"

No rule can tell a good guess from a thought, and where few answers are possible reinforcement learning finds the usual
one first. What shows it is the answers themselves, over many questions of one sort.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from thinkery.core import Group
from thinkery.evals.measure import Extract
from thinkery.evals.metrics import Estimate
from thinkery.rewards.accuracy import RULED, TESTED
from thinkery.rewards.environment import answer_form
from thinkery.rewards.extract import plain

ALIKE = 0.8
"""Share of the attempts that one answer must have to be told."""
QUESTIONS = 8
"""Fewest questions of a sort of which anything is said."""
COMPARED = frozenset(RULED) - frozenset(TESTED)
"""Kinds of task whose answers can be alike; no two programs are."""


@dataclass(slots=True)
class _Sort:
    """What was asked of one environment or from one source, and answered."""

    questions: int = 0
    attempts: int = 0
    golds: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)


class Guesses:
    """Notes, and no numbers, about sorts of question that a model gives one answer to though several are right."""

    names: Sequence[str] = ()

    def __init__(self, extract: Extract) -> None:
        self._extract = extract
        self._sorts: dict[str, _Sort] = {}

    def add(self, group: Group) -> None:
        """Take in one question."""
        task = group.task
        if task.kind not in COMPARED or not task.gold:
            return
        sort = self._sorts.setdefault(task.environment or task.source or task.kind, _Sort())
        sort.questions += 1
        sort.golds[plain(task.gold)] += 1
        for rollout in group.rollouts:
            sort.attempts += 1
            if (answer := self._extract(rollout.completion, answer_form(task))) is not None:
                said, score = plain(answer), rollout.scores.get("accuracy")
                sort.answers[said] += 1
                sort.right[said] += int(score is not None and score.value == 1)

    def estimates(self) -> dict[str, Estimate]:
        """None."""
        return {}

    def notes(self) -> list[str]:
        """One line for each sort whose answers are alike and whose questions are not."""
        found = []
        for name, sort in self._sorts.items():
            (answer, count), *_ = sort.answers.most_common(1) or [("", 0)]
            several = max(sort.golds.values()) < ALIKE * sort.questions
            if sort.questions >= QUESTIONS and several and count >= ALIKE * sort.attempts:
                right = sort.right[answer] / count
                found.append(
                    f"{count} of {sort.attempts} answers to {name} are {answer[:40]!r}, which is right in {right:.0%}: "
                    "a guess"
                )
        return found
