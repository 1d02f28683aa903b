"""Puzzles of Reasoning Gym, each judged by its own verifier (`pip install reasoning-gym`)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from thinkery.core import Score, Task, Turn
from thinkery.errors import InputError
from thinkery.tasks.outside import package

EXAM_SEEDS = 1_000_003
"""How far the seeds of exams are from those of training; puzzle i of a seed is drawn from seed + i."""


def puzzle_tasks(name: str, split: str, seed: int, count: int, settings: dict[str, Any]) -> Iterator[Task]:
    """So many puzzles of a kind, made with `settings` such as {"max_digits": 1}; another split has other seeds."""
    first = seed + (0 if split == "train" else EXAM_SEEDS)
    how = {"library": "reasoning-gym", "name": name, "settings": settings, "seed": first, "size": count}
    for i, row in enumerate(_puzzles(name, json.dumps(settings), first, count)):
        info = {"environment": {**how, "index": i}}
        yield Task(
            f"{name}/{split}-{i}", row["question"], "environment", str(row["answer"]), "en", "reasoning-gym", info=info
        )


class Puzzle:
    """One puzzle. An answer is right when the puzzle's verifier gives it full marks, thousands separators aside."""

    def __init__(self, name: str, settings: dict[str, Any], seed: int, size: int, index: int) -> None:
        self._puzzles = _puzzles(name, json.dumps(settings), seed, size)
        self._row = self._puzzles[index]

    def reply(self, text: str) -> Turn:
        """The verdict; a puzzle is over after one reply."""
        answers = dict.fromkeys((text, text.strip(" \n.$"), text.strip(" \n.$").replace(",", "")))
        marks = [self._puzzles.score_answer(answer, self._row) for answer in answers]
        right = 1 in marks  # not more: shares of a mark that add up to 1.0000000000000002 are a near miss
        return Turn(Score(float(right), f"{text[:200]!r} gets {max(marks):g}, {self._row['answer'][:200]!r} is wanted"))


@functools.lru_cache(maxsize=64)
def _puzzles(name: str, settings: str, seed: int, size: int) -> Any:
    gym = package("reasoning_gym")
    try:
        return gym.create_dataset(name, size=size, seed=seed, **json.loads(settings))
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(
            "Reasoning Gym does not make it", where="reasoning-gym", found=f"{name} {settings}", hint=str(error)
        ) from error
