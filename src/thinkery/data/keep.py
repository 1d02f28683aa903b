"""What is worth learning from: filters over judged attempts, and the count of what each one dropped (R1 §2.3.3).

A filter returns None to keep, or the reason to drop. The funnel counts both:

    funnel = Funnel()
    for rollout in group.rollouts:
        funnel.enter()
        if funnel.passes("right", right(rollout), text) and funnel.passes("readable", readable(rollout), text): ...
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from thinkery.config import Config
from thinkery.core import Rollout
from thinkery.data.repetition import repetition
from thinkery.rewards.language import language_share

STAGES = ("right", "readable", "deduplicated", "decontaminated")
_GARBAGE = re.compile(r"\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ue000-\uf8ff]|(.)\1{39}", re.DOTALL)


class Readable(Config):
    """What a thought must be like to be shown to people; the numbers are ours, R1 does not publish its own."""

    language: float = 0.95
    """The least share of a thought's words in the language of the question; 0 turns the test off."""
    repetition: float = 0.3
    """The largest share of 8-grams that occurred before."""
    paragraph: int = 3000
    """The most characters a paragraph of the thought may have."""
    code: bool = False
    """Whether a thought may hold fenced code."""


def right(rollout: Rollout, reward: str = "accuracy") -> str | None:
    """Keeps attempts whose `reward` gave full accuracy (1)."""
    score = rollout.scores.get(reward)
    if score is None or score.value is None:
        return "ungraded"
    return None if score.value >= 1 else "wrong"


def readable(rollout: Rollout, limits: Readable | None = None) -> str | None:
    """Keeps attempts whose thought ended and whose thought and answer people can read."""
    completion = rollout.completion
    if completion.finish == "length":
        return "cut off"
    if completion.thought is not None and not completion.closed:
        return "thought not closed"
    if not completion.answer.strip():
        return "no answer"
    return unreadable(completion.thought or "", completion.answer, rollout.task.language, limits or Readable())


def unreadable(thought: str, answer: str, language: str | None, limits: Readable) -> str | None:
    """Why a thought and its answer cannot be read, None when they can."""
    if _GARBAGE.search(thought) or _GARBAGE.search(answer):
        return "garbage characters"
    if not limits.code and "```" in thought:
        return "code in the thought"
    share = language_share(thought, language) if language else None
    if share is not None and share < limits.language:
        return "mixed languages"
    if any(len(paragraph) > limits.paragraph for paragraph in re.split(r"\n\s*\n", thought)):
        return "long paragraph"
    return "repetition" if max(repetition(thought), repetition(answer)) > limits.repetition else None


class Funnel:
    """How many attempts came in, passed each stage and were kept, with the first few that each reason dropped."""

    def __init__(self, stages: tuple[str, ...] = STAGES, examples: int = 3) -> None:
        self.generated = 0
        self.passed = dict.fromkeys(stages, 0)
        self.dropped: dict[str, Counter[str]] = {stage: Counter() for stage in stages}
        self.examples: dict[str, list[Any]] = {}
        self._most = examples

    def enter(self, n: int = 1) -> None:
        """Count what was generated."""
        self.generated += n

    def passes(self, stage: str, reason: str | None, example: Any = None) -> bool:
        """Count an attempt as passed (no reason) or dropped; True when it passed. `example` must survive JSON."""
        if reason is None:
            self.passed[stage] += 1
            return True
        self.dropped[stage][reason] += 1
        examples = self.examples.setdefault(f"{stage}: {reason}", [])
        if example is not None and len(examples) < self._most:
            examples.append(example)
        return False

    @property
    def counts(self) -> dict[str, int]:
        """generated → each stage → kept, in that order."""
        last = list(self.passed)[-1]
        return {"generated": self.generated, **self.passed, "kept": self.passed[last]}

    def report(self) -> dict[str, Any]:
        """Counts, reasons and examples as JSON."""
        dropped = {stage: dict(reasons.most_common()) for stage, reasons in self.dropped.items() if reasons}
        return {"counts": self.counts, "dropped": dropped, "examples": self.examples}
