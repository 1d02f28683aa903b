"""A rubric: which rewards judge an attempt, how much each counts, and on which tasks.

    Rubric(accuracy=accuracy, format=thinks, helpful=Part(helpful, applies=lambda task: task.kind == "general"))

A reward that raises, or returns anything but a finite number, leaves the attempt *ungraded*, with the reason: a
broken judge must never look like a wrong answer.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from thinkery.core import Completion, Reward, Score, Task

Pair = tuple[Task, Completion]


def always(task: Task) -> bool:
    """A reward with this condition applies to every task."""
    return True


@dataclass(frozen=True, slots=True)
class Part:
    """One reward of a rubric: the sum takes `weight` × its value on the tasks it `applies` to.

    `full_marks` is what a right and well-formed answer earns; the dry run before training expects it.
    """

    reward: Reward
    weight: float = 1.0
    applies: Callable[[Task], bool] = always
    full_marks: float = 1.0


class Rubric:
    """Named rewards, recorded in the order they are given in. A plain reward counts as `Part(reward)`."""

    def __init__(self, **rewards: Reward | Part) -> None:
        self.parts = {name: part if isinstance(part, Part) else Part(part) for name, part in rewards.items()}

    def judge(self, pairs: Sequence[Pair]) -> list[tuple[dict[str, Score], float | None]]:
        """For each attempt its scores by name and their weighted sum, in order.

        A score is recorded only where its part applies. The sum is None when a score that counts (weight not 0)
        is ungraded, or when no part applies. A reward with a `batch(pairs)` attribute is called once for all
        attempts; coroutines of one reward are awaited together. Must not be called from a running event loop.
        """
        records: list[dict[str, Score]] = [{} for _ in pairs]
        for name, part in self.parts.items():
            rows = [i for i, (task, _) in enumerate(pairs) if part.applies(task)]
            for i, score in zip(rows, _score_all(part.reward, [pairs[i] for i in rows]), strict=True):
                records[i][name] = score
        return [(record, self._sum(record)) for record in records]

    def _sum(self, scores: dict[str, Score]) -> float | None:
        total = 0.0
        for name, score in scores.items():
            if weight := self.parts[name].weight:
                if score.value is None:
                    return None
                total += weight * score.value
        return total if scores else None


def _score_all(reward: Reward, pairs: Sequence[Pair]) -> list[Score]:
    """One score per pair, by one batch call where the reward has one."""
    batch = getattr(reward, "batch", None)
    if batch is None or not pairs:
        return _score_each(reward, pairs)
    try:
        return [_to_score(value) for _, value in zip(pairs, batch(pairs), strict=True)]
    except Exception as error:
        return [_failure(error)] * len(pairs)


def _score_each(reward: Reward, pairs: Sequence[Pair]) -> list[Score]:
    results: list[object] = []
    for task, completion in pairs:
        try:
            results.append(reward(task, completion))
        except Exception as error:
            results.append(_failure(error))
    if any(inspect.isawaitable(result) for result in results):
        results = asyncio.run(_await_all(results))
    return [_to_score(result) for result in results]


async def _await_all(results: list[object]) -> list[object]:
    return list(await asyncio.gather(*(_settle(result) for result in results)))


async def _settle(result: object) -> object:
    try:
        return await result if isinstance(result, Awaitable) else result
    except Exception as error:
        return _failure(error)


def _to_score(value: object) -> Score:
    """What a reward returned, as a score; anything but a finite number is ungraded."""
    reason = ""
    if isinstance(value, Score):
        if value.value is None:
            return value
        value, reason = value.value, value.reason
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return Score(None, f"the reward returned {value!r:.100}, not a number")
    return Score(number, reason) if math.isfinite(number) else Score(None, f"the reward returned {number}")


def _failure(error: Exception) -> Score:
    return Score(None, f"{type(error).__name__}: {error}"[:500])
