"""Judging what was produced elsewhere: one JSON object a line in, one verdict a line out, and a summary.

    kind = KINDS["pass-at-k"](Options())           # in kinds.py
    for result in judged(kind, lines): ...         # {"value": 0.5}, or {"error": "…"} for an unusable line
    kind.tally.summary()                           # {"value": 0.5, "n": 1, "ungraded": 0}

Lines stream: a few are in flight at a time, in threads where a kind's judging waits for other processes, and results
come in the order of the lines. What a tally keeps of a line is a handful of numbers.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from thinkery.evals.arena import Style

Result = dict[str, Any]
IN_FLIGHT = 4
"""Lines read ahead for each thread."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a kind may be told besides its lines."""

    baseline: str = "gpt-4-0314"
    """Arena-Hard: the model that every other is compared with; it scores 50."""
    style: Style | None = None
    """Arena-Hard: what of the answers' style is controlled for."""
    sandbox: Literal["bubblewrap", "process"] = "bubblewrap"
    """Code: what programs run in; "process" isolates nothing."""


class Line(BaseModel):
    """The fields that a kind needs of a line; others are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Tally(Protocol):
    """What a kind remembers of its lines."""

    def add(self, line: Any, result: Result) -> None:
        """Take in a judged line; ValueError where it cannot be used after all."""
        ...

    def summary(self) -> Result:
        """The score of all lines together."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One way of judging, for one stream: the fields of a line, the verdict on one, and what becomes of all.

    `judge` may be called from several threads; a ValueError says that the line cannot be used.
    """

    fields: type[Line]
    judge: Callable[[Any], Result]
    tally: Tally
    threads: int = 1


def judged(kind: Kind, lines: Iterable[bytes]) -> Iterator[Result]:
    """The result of each line that is not blank, in order; the kind's tally has seen it when it comes."""
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    for number, work in _ahead(lambda item: _judge_line(kind, item[1]), numbered, kind.threads):
        try:
            line, result = work.result()
            kind.tally.add(line, result)
        except ValueError as problem:
            result = {"error": f"line {number}: {_reason(problem)}"}
        yield result


def _judge_line(kind: Kind, text: bytes) -> tuple[Line, Result]:
    line = kind.fields.model_validate(_parse(text))
    return line, kind.judge(line)


def _parse(text: bytes) -> Any:
    """The JSON of a line; ValueError where it is none, or holds half a character."""
    try:
        value = json.loads(text)
    except RecursionError as problem:
        raise ValueError("not JSON: nested too deeply") from problem
    if b"\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _ahead(
    function: Callable[[Any], Any], items: Iterable[tuple[int, Any]], threads: int
) -> Iterator[tuple[int, Future[Any]]]:
    """Each item's number with its future, in order; only so many are begun before their turn."""
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[tuple[int, Future[Any]]] = deque()
        for item in items:
            begun.append((item[0], pool.submit(function, item)))
            if len(begun) >= IN_FLIGHT * threads:
                yield begun.popleft()
        yield from begun


def _reason(problem: ValueError) -> str:
    """What is wrong with a line, in one."""
    if isinstance(problem, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'line'}: {e['msg'].lower()}" for e in problem.errors()[:3])
    if isinstance(problem, json.JSONDecodeError):
        return f"not JSON: {problem}"
    return " ".join(str(problem).split())


Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]
"""A text; a number is taken as it is written."""


class Means:
    """The means of some fields of the results, over those that are not None; the rest counts as `ungraded`."""

    def __init__(self, **fields: str) -> None:
        self._fields = fields
        self._sums: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._lines = 0

    def add(self, line: Line, result: Result) -> None:
        """Take in a result."""
        self._lines += 1
        for field in self._fields.values():
            if result[field] is not None:
                self._sums[field] += result[field]
                self._counts[field] += 1

    def summary(self) -> Result:
        """The means under their names, `n` lines, and how many of them have no value."""
        means = {
            name: self._sums[field] / self._counts[field] if self._counts[field] else None
            for name, field in self._fields.items()
        }
        ungraded = self._lines - min(self._counts[field] for field in self._fields.values())
        return {**means, "n": self._lines, "ungraded": ungraded}
