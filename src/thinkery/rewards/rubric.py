"""A rubric: which rewards judge an attempt, how much each counts, and on which tasks.

    Rubric(accuracy=accuracy, format=thinks, helpful=Part(helpful, applies=lambda task: task.kind == "general"))

A reward that raises, or returns anything but a finite number, leaves the attempt *ungraded*, with the reason: a
broken judge must never look like a wrong answer.

    Spread(rubric, workers)      # the same verdicts; what is a rule (`core.rule`) is judged by workers elsewhere
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from thinkery.core import Completion, Reward, Score, Task, always

P = ParamSpec("P")
T = TypeVar("T")
Pair = tuple[Task, Completion]
Verdict = tuple[dict[str, Score], float | None]
"""The scores of an attempt by name, and their weighted sum."""
Timed = tuple[T, float]
"""What was made, and the seconds that it took."""


class Workers(Protocol):
    """Processes elsewhere that call functions (`engine/executor.py`, or an executor of `concurrent.futures`)."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have one of them call the function, which depends on its arguments alone."""
        ...


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

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """For each attempt its scores by name and their weighted sum, in order.

        A score is recorded only where its part applies. The sum is None when a score that counts (weight not 0)
        is ungraded, or when no part applies. A reward with a `batch(pairs)` attribute is called once for all
        attempts; coroutines of one reward are awaited together. Must not be called from a running event loop.
        """
        return self.summed(self.scores(pairs))

    def begin(self, pairs: Sequence[Pair]) -> Callable[[], Timed[list[Verdict]]]:
        """Have others begin to judge what they can; the function returned does the rest, and gives all verdicts."""
        return lambda: timed(self.judge, pairs)

    def only(self, *names: str) -> Rubric:
        """The same rubric with these parts alone."""
        return Rubric(**{name: self.parts[name] for name in names})

    def scores(self, pairs: Sequence[Pair]) -> list[dict[str, Score]]:
        """The scores of each attempt, without their sum."""
        records: list[dict[str, Score]] = [{} for _ in pairs]
        for name, part in self.parts.items():
            rows = [i for i, (task, _) in enumerate(pairs) if part.applies(task)]
            for i, score in zip(rows, _score_all(part.reward, [pairs[i] for i in rows]), strict=True):
                records[i][name] = score
        return records

    def summed(self, records: Sequence[dict[str, Score]]) -> list[Verdict]:
        """The same scores with their sums."""
        return [(record, self._sum(record)) for record in records]

    def _sum(self, scores: dict[str, Score]) -> float | None:
        total = 0.0
        for name, score in scores.items():
            if weight := self.parts[name].weight:
                if score.value is None:
                    return None
                total += weight * score.value
        return total if scores else None


class Spread(Rubric):
    """A rubric whose rules are judged by workers elsewhere; other rewards, which may need this process, stay in it."""

    def __init__(self, rubric: Rubric, workers: Workers) -> None:
        super().__init__(**rubric.parts)
        self.workers = workers

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """The verdicts of the rubric itself."""
        return self.begin(pairs)()[0]

    def begin(self, pairs: Sequence[Pair]) -> Callable[[], Timed[list[Verdict]]]:
        """Hand over the parts that are rules on all of these tasks; the function returned judges by the others."""
        tasks = list({id(task): task for task, _ in pairs}.values())
        away = {name: part for name, part in self.parts.items() if is_rule(part, tasks)}
        if not away:
            judge = super().judge
            return lambda: timed(judge, pairs)
        here = Rubric(**{name: part for name, part in self.parts.items() if name not in away})
        answer = self.workers.submit(timed, Rubric(**away).scores, pairs)

        def finish() -> Timed[list[Verdict]]:
            ours, our_s = timed(here.scores, pairs)
            theirs, their_s = answer.result()
            found = [{**one, **other} for one, other in zip(ours, theirs, strict=True)]
            ordered = [{name: scores[name] for name in self.parts if name in scores} for scores in found]
            return self.summed(ordered), our_s + their_s

        return finish

    def only(self, *names: str) -> Spread:
        """The same rubric with these parts alone."""
        return Spread(super().only(*names), self.workers)


def is_rule(part: Part, tasks: Sequence[Task]) -> bool:
    """Whether a part applies to any of the tasks, and is a rule on all of those."""
    applies = [task for task in tasks if part.applies(task)]
    says = getattr(part.reward, "rule", None)
    return bool(applies) and says is not None and all(says(task) for task in applies)


def timed(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Timed[T]:
    """What the function returns, and how long it took."""
    began = time.perf_counter()
    made = function(*args, **kwargs)
    return made, time.perf_counter() - began


def _score_all(reward: Reward, pairs: Sequence[Pair]) -> list[Score]:
    """One score per pair, by one batch call where the reward has one."""
    batch = getattr(reward, "batch", None)
    if batch is None or not pairs:
        return _score_each(reward, pairs)
    try:
        return [_to_score(value) for _, value in zip(pairs, batch(pairs), strict=True)]
    except (Exception, SystemExit) as error:
        return [_failure(error)] * len(pairs)


def _score_each(reward: Reward, pairs: Sequence[Pair]) -> list[Score]:
    results: list[object] = []
    for task, completion in pairs:
        try:
            results.append(reward(task, completion))
        except (Exception, SystemExit) as error:
            results.append(_failure(error))
    if any(inspect.isawaitable(result) for result in results):
        results = asyncio.run(_await_all(results))
    return [_to_score(result) for result in results]


async def _await_all(results: list[object]) -> list[object]:
    return list(await asyncio.gather(*(_settle(result) for result in results)))


async def _settle(result: object) -> object:
    try:
        return await result if isinstance(result, Awaitable) else result
    except (Exception, SystemExit) as error:
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


def _failure(error: BaseException) -> Score:
    return Score(None, f"{type(error).__name__}: {error}"[:500])
