"""The attempts of an evaluation in a file, written as they come: what a killed evaluation continues with.

    attempts = Attempts(folder / "attempts.jsonl", benchmark)
    ask(engine, benchmark, attempts, seed=0)              # asks what is not in the file yet
    numbers(benchmark, attempts).estimates()["pass@1"]

A row is that of the record (`docs/record.md`), and `answer_tokens` where the engine can count them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.engine.base import Engine
from thinkery.errors import InputError
from thinkery.evals.benchmark import Benchmark, Measurement, token_counter
from thinkery.evals.measure import count_answers
from thinkery.pipeline.files import append_row, read_rows, writing
from thinkery.pipeline.record import rollout_row
from thinkery.rewards.rubric import Rubric
from thinkery.rollout import rollouts

ATTEMPTS = "attempts.jsonl"
"""The file of judged attempts in the folder of an evaluation."""
UNKNOWN = -1
"""Stands for every token of a completion that was read back: how many there were is kept, not which."""
TOGETHER = 32
"""Questions whose attempts another model judges at the same time."""

OnGroup = Callable[[Group], None]
Kept = tuple[Group, list[int] | None]
"""A judged group, and the tokens of each attempt's answer where they are known."""


class Attempts:
    """Judged groups in a file, a row for each attempt, added group by group; a file that exists is continued.

    A group that a kill tore apart is cut off, so that its question counts as not asked. One writer at a time.
    """

    def __init__(self, path: Path, benchmark: Benchmark) -> None:
        self.path, self._benchmark = path, benchmark
        self.done: set[str] = set()
        """The ids of the tasks whose attempts are all there."""
        if path.exists():
            self._reopen()

    def add(self, group: Group, answer_tokens: Sequence[int] | None = None) -> None:
        """Write one group."""
        for i, rollout in enumerate(group.rollouts):
            counted = {} if answer_tokens is None else {"answer_tokens": answer_tokens[i]}
            append_row(self.path, rollout_row(0, rollout) | counted)
        self.done.add(group.task.id)

    def groups(self) -> Iterator[Kept]:
        """Every whole group, in the order in which they were written."""
        yield from read_groups(self.path, self._benchmark) if self.path.exists() else ()

    def _reopen(self) -> None:
        """Note the whole groups, and cut the file behind the last of them."""
        whole = end = 0
        ids: list[str] = []
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                ids.append(self._task_of(line))
                if len(ids) == self._benchmark.samples:
                    self.done.add(ids[0])
                    whole = end
                    ids.clear()
        with writing(self.path), open(self.path, "r+b") as file:
            file.truncate(whole)

    def _task_of(self, line: bytes) -> str:
        """The task that a row is an attempt at."""
        try:
            return json.loads(line)["task"]
        except (ValueError, KeyError, TypeError) as problem:
            raise InputError("a line is no attempt", where=str(self.path), found=f"{line[:60]!r}") from problem


def ask(
    engine: Engine, benchmark: Benchmark, attempts: Attempts, *, seed: int, on_group: OnGroup | None = None
) -> None:
    """Ask every task that is not among the attempts yet; what the judge of the benchmark adds is left to `judge`.

    A sample is a function of its seed. On the built-in engine a continued evaluation has other neighbours in a batch,
    which matters only where a draw falls within rounding of the border between two tokens.
    """
    tasks = [task for task in benchmark.tasks if task.id not in attempts.done]
    rubric = Rubric() if benchmark.judged else benchmark.rubric
    count = token_counter(engine)
    for group in rollouts(engine, tasks, benchmark.sampling, rubric, samples=benchmark.samples, seed=seed):
        attempts.add(group, count_answers(group, count))
        if on_group:
            on_group(group)


def judge(source: Attempts, rubric: Rubric, into: Attempts, *, on_group: OnGroup | None = None) -> None:
    """Judge the attempts of a file, and write those that the other one does not have yet."""
    waiting = (kept for kept in source.groups() if kept[0].task.id not in into.done)
    while some := list(islice(waiting, TOGETHER)):
        for group, (_, answer_tokens) in zip(judged([group for group, _ in some], rubric), some, strict=True):
            into.add(group, answer_tokens)
            if on_group:
                on_group(group)


def judged(groups: Sequence[Group], rubric: Rubric) -> Iterator[Group]:
    """The same attempts under a rubric, all judged side by side."""
    verdicts = iter(rubric.judge([(r.task, r.completion) for group in groups for r in group.rollouts]))
    for group in groups:
        scored = [(rollout, *next(verdicts)) for rollout in group.rollouts]
        yield Group(group.task, tuple(replace(r, scores=scores, reward=reward) for r, scores, reward in scored))


def numbers(benchmark: Benchmark, attempts: Attempts) -> Measurement:
    """The measurement of all attempts in a file."""
    found = Measurement(benchmark)
    for group, answer_tokens in attempts.groups():
        found.add(group, answer_tokens)
    return found


def read_groups(path: Path, benchmark: Benchmark) -> Iterator[Kept]:
    """The whole groups in a file of rows of the record; InputError where a question is not that of the benchmark."""
    tasks, rows = {task.id: task for task in benchmark.tasks}, read_rows(path)
    while len(some := list(islice(rows, benchmark.samples))) == benchmark.samples:
        task = tasks.get(some[0]["task"])
        if task is None or task.prompt != some[0]["prompt"]:
            hint = "the data has changed since: evaluate into another folder"
            raise InputError(f"{some[0]['task']} is not the question it was", where=str(path), hint=hint)
        answer_tokens = [row["answer_tokens"] for row in some if "answer_tokens" in row]
        yield Group(task, tuple(read_rollout(task, row) for row in some)), answer_tokens or None


def read_rollout(task: Task, row: Mapping[str, Any]) -> Rollout:
    """The attempt that a row of the record was written from; of tokens only the number is known."""
    said = Completion(
        text=row["text"],
        tokens=(UNKNOWN,) * row["tokens"],
        finish=row["finish"],
        thought=row["thought"],
        answer=row["answer"],
        closed=row["closed"],
        version=row["version"],
    )
    scores = {name: Score(score["value"], score["reason"]) for name, score in row["scores"].items()}
    return Rollout(task, (), said, scores, row["reward"], row["sample"])
