"""The runs that can be looked at, each read anew for every page; what is large is kept between pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache, wraps
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import numpy as np

from thinkery.errors import InputError
from thinkery.evals.compare import EXAM, Change, Sheet, compare
from thinkery.pipeline.artifact import MANIFEST, Artifact, Dataset, Report, load_artifact
from thinkery.pipeline.files import length_of
from thinkery.pipeline.index import Index, IndexedGroup
from thinkery.pipeline.read import RunRecord, StepRecord, open_run
from thinkery.pipeline.step import suggestion

T = TypeVar("T")
ACCURACY = "accuracy"
"""The reward that says whether an answer is right."""


STATIC_GROUPS = 12
"""Questions of a file of attempts that a static site shows."""


class Library:
    """Runs by the name that their addresses begin with."""

    def __init__(self, paths: Sequence[Path], most: int | None = None) -> None:
        self._paths, self._most = paths, most
        if not self.folders:
            raise InputError("no run here", where=", ".join(map(str, paths)), hint="thinkery run tiny")

    @property
    def folders(self) -> dict[str, Path]:
        """Where each run is, by its name; new ones appear by themselves."""
        return _named(folder for path in self._paths for folder in find_runs(path))

    def open(self, name: str) -> Book:
        """A run as it is now; InputError for a name that is none."""
        folders = self.folders
        if name not in folders:
            raise InputError(f"there is no run {name!r}", hint=suggestion(name, folders))
        return Book(name, open_run(folders[name]), self._most)


class Book:
    """One run as it is at the moment of one page."""

    def __init__(self, name: str, record: RunRecord, most: int | None = None) -> None:
        self.name, self.record, self._most = name, record, most

    @cached_property
    def steps(self) -> dict[str, StepRecord]:
        """The steps in the order of the graph."""
        return self.record.steps

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Everything that happened."""
        return self.record.events()

    @property
    def live(self) -> bool:
        """Whether somebody works on it now."""
        return any(step.status == "running" for step in self.steps.values())

    def step(self, name: str) -> StepRecord:
        """A step; InputError when there is none of this name."""
        if name not in self.steps:
            raise InputError(f"there is no step {name!r}", where=self.name, hint=suggestion(name, self.steps))
        return self.steps[name]

    def artifact(self, name: str) -> Artifact | None:
        """What a step made, None while it is not done."""
        step = self.step(name)
        return _artifact(step.path) if step.status == "done" else None

    def datasets(self) -> dict[str, Dataset]:
        """The data sets that are done."""
        made = {name: self.artifact(name) for name in self.steps}
        return {name: one for name, one in made.items() if isinstance(one, Dataset)}

    def exams(self) -> dict[str, Report]:
        """The finished reports that measure a stage, by step, in the order of the graph."""
        made = {name: self.artifact(name) for name, step in self.steps.items() if step.kind == "Report"}
        return {name: one for name, one in made.items() if isinstance(one, Report) and "stage" in _data(one.path)}

    def results(self) -> dict[str, dict[str, Any]]:
        """Estimates by stage and metric; several reports about a stage are one."""
        stages: dict[str, dict[str, Any]] = {}
        for report in self.exams().values():
            data = _data(report.path)
            stages.setdefault(data["stage"], {}).update(data["metrics"])
        return stages

    def sheets(self) -> dict[str, Sheet]:
        """What every question of an exam scored, by stage, for the stages whose exam judged accuracy."""
        found = {stage: _sheet(path) for stage, path in self._examined().items()}
        return {stage: sheet for stage, sheet in found.items() if sheet.scores}

    def change(self, before: str, after: str) -> Change:
        """What differs between two stages' exams."""
        paths = self._examined()
        return _change(paths[before], paths[after])

    def _examined(self) -> dict[str, Path]:
        return {name.removeprefix(EXAM): report.path for name, report in self.exams().items()}

    def index(self, name: str) -> Index:
        """Where a step's attempts lie."""
        return Index(self.step(name).path)

    def numbers(self, name: str) -> list[int]:
        """The files of attempts that a step has; at most so many as are shown, from the first to the newest."""
        found = self.index(name).numbers()
        return found if self._most is None else evenly(found, self._most)

    def groups(self, name: str, number: int) -> list[IndexedGroup]:
        """The questions of a file of attempts, as far as they are shown."""
        found = self.index(name).groups(number)
        return found if self._most is None else found[:STATIC_GROUPS]

    def newest(self, name: str) -> int:
        """The newest file of attempts; InputError when there is none."""
        numbers = self.numbers(name)
        if not numbers:
            raise InputError(f"step {name!r} has recorded no attempts", where=self.name)
        return numbers[-1]

    def asked(self) -> dict[str, list[int]]:
        """The steps that recorded attempts, each with the numbers of its files."""
        numbers = {name: self.numbers(name) for name in self.steps}
        return {name: found for name, found in numbers.items() if found}

    def metrics(self, name: str) -> Metrics:
        """The curves of a step."""
        return _metrics(self.step(name).path / "metrics.jsonl").refreshed()

    def events_of(self, name: str, *kinds: str) -> list[dict[str, Any]]:
        """What happened in a step's present execution."""
        key = self.step(name).key[:8]
        return [row for row in self.events if (row["step"], row["key"]) == (name, key) and row["kind"] in kinds]


class Metrics:
    """The rows of one metrics.jsonl, of which only what was added is read again."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, RLock()
        self._rows: dict[int, dict[str, Any]] = {}
        self._end, self._last = 0, b""
        self._columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._columns_end = 0
        self.generation = 0
        """Rises when the file was cut back to a checkpoint, which makes what was read before worthless."""

    def refreshed(self) -> Metrics:
        """Itself, with what was added since."""
        with self._lock:
            if length_of(self._path) != self._end:
                try:
                    self._read()
                except FileNotFoundError:  # set aside, or sealed under another name
                    self._rows, self._end, self._last = {}, 0, b""
                    self.generation += 1
        return self

    def rows(self, after: int = -1) -> list[dict[str, Any]]:
        """One row for each step number above `after`, in order; later values of the same name win."""
        with self._lock:
            return [self._rows[step] for step in sorted(self._rows) if step > after]

    def columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each metric the step numbers that have it, and its values."""
        with self._lock:
            if self._columns_end != self._end:
                self._columns, self._columns_end = _columns(self.rows()), self._end
            return self._columns

    def _read(self) -> None:
        with open(self._path, "rb") as file:
            if not self._continues(file):
                self._rows, self._end, self._last = {}, 0, b""
                self.generation += 1
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                row = json.loads(line)
                self._rows.setdefault(row["step"], {}).update(row)
                self._end, self._last = self._end + len(line), line

    def _continues(self, file: Any) -> bool:
        """Whether the line that was read last is still where it was."""
        file.seek(self._end - len(self._last))
        return file.read(len(self._last)) == self._last


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    points: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                steps, values = points.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in points.items()}


def find_runs(path: Path) -> list[Path]:
    """The run at a path, or the runs in the folders below it."""
    if (path / "run.json").is_file():
        return [path.resolve()]
    return sorted(found.parent.resolve() for found in path.glob("*/run.json"))


def evenly(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the numbers, the first and the last among them."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[round(i * (len(numbers) - 1) / max(1, most - 1))] for i in range(most)]


def parents(book: Book, stages: Sequence[str]) -> dict[str, str]:
    """The measured stage that each measured stage's training started from."""
    found = {}
    for stage in stages:
        step = book.steps.get(stage)
        reads = step.inputs if step and step.kind == "Model" else {}
        model = next((reads[name] for name in ("start", "base") if name in reads), None)
        if model in stages:
            found[stage] = model
    return found


def _named(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders by their own name, with a number where two have the same."""
    named: dict[str, Path] = {}
    for folder in dict.fromkeys(folders):
        name, number = folder.name, 2
        while name in named:
            name, number = f"{folder.name}-{number}", number + 1
        named[name] = folder
    return named


def _remembered(make: Callable[..., T]) -> Callable[..., T]:
    """Remember what is made of finished folders, until one is made anew under its name."""

    @lru_cache(maxsize=1024)
    def made(folders: tuple[Path, ...], stamps: tuple[int, ...]) -> T:
        return make(*folders)

    @wraps(make)
    def found(*folders: Path) -> T:
        return made(folders, tuple(map(_stamp, folders)))

    return found


def _stamp(folder: Path) -> int:
    """When a folder was sealed."""
    with suppress(FileNotFoundError):
        return (folder / MANIFEST).stat().st_mtime_ns
    return 0


@_remembered
def _artifact(path: Path) -> Artifact:
    """A finished artifact."""
    return load_artifact(path)


@_remembered
def _data(path: Path) -> Mapping[str, Any]:
    report = _artifact(path)
    assert isinstance(report, Report)
    return report.data if (report.folder / "report.json").exists() else {}


@_remembered
def _sheet(path: Path) -> Sheet:
    """The mean accuracy of every question of a finished exam."""
    index = Index(path)
    groups = [group for number in index.numbers() for group in index.groups(number) if ACCURACY in group.scores]
    samples = max((g.samples for g in groups), default=1)
    return Sheet({g.task: g.scores[ACCURACY] for g in groups}, {g.task: g.prompt for g in groups}, samples)


@_remembered
def _change(before: Path, after: Path) -> Change:
    return compare(_sheet(before), _sheet(after))


@lru_cache(maxsize=1024)
def _metrics(path: Path) -> Metrics:
    return Metrics(path)
