"""What is worth learning from (v1 §2.3.3): filters of judged attempts, each None to keep, or the reason to drop."""

from __future__ import annotations

import re

from thinkery.config import Config
from thinkery.core import Rollout
from thinkery.rewards.language import language_share
from thinkery.rewards.shaping import repetition

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
