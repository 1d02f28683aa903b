"""Where each group of attempts lies in a step's files, so that one question opens without reading the rest.

    index = Index(folder)
    for place, group in enumerate(index.groups(120)):
        print(group.prompt, group.reward, group.tokens)
        attempts = index.rows(120, place)

A file of attempts is a gzip file with one member for each group. `index.jsonl` has a line for each file, appended
after it, with the place of every member and what a list of questions shows. It is made from the files and can be lost:
where a line is missing (a kill came between) or does not fit its file, the file itself is read. The last line about a
file counts, so a step that is done again after a kill needs no correction. Fields: `docs/record.md`.
"""

from __future__ import annotations

import gzip
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from thinkery.errors import InputError
from thinkery.pipeline.files import length_of, read_rows

INDEX = "index.jsonl"
EXCERPT = 120
"""Characters of a question that the index repeats."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IndexedGroup:
    """All attempts at one question: where they lie, and what a list of questions shows."""

    task: str
    kind: str
    source: str
    prompt: str
    """The beginning of the question."""
    samples: int
    reward: float | None
    """The mean over its graded attempts."""
    low: float | None
    high: float | None
    scores: Mapping[str, float]
    """The mean of each reward over the attempts that it graded."""
    tokens: float
    cut: int
    """Attempts that reached the limit of length."""
    at: int = 0
    """Where its member begins in the file."""
    size: int = 0
    """Bytes of its member; 0 where the file was written as one."""

    @property
    def spread(self) -> float:
        """How far apart its rewards are."""
        return 0.0 if self.low is None or self.high is None else self.high - self.low


class Index:
    """The attempts that a step's folder has, by file number and by place in the file; it only reads."""

    def __init__(self, folder: Path) -> None:
        self._rollouts, self._path = folder / "rollouts", folder / INDEX

    def numbers(self) -> list[int]:
        """The files' numbers in order: steps of training, or first questions of an exam."""
        names = os.listdir(self._rollouts) if self._rollouts.is_dir() else []
        return sorted(int(name.split(".")[0]) for name in names if name.endswith(".jsonl.gz") and name[0] != ".")

    def groups(self, number: int) -> list[IndexedGroup]:
        """The groups of one file; InputError when there is no such file."""
        file = self._file(number)
        if number in (lines := self._lines()):
            entry = self._line(lines[number])
            if entry["bytes"] == file.stat().st_size:
                return [IndexedGroup(**group) for group in entry["groups"]]
        return [summary(rows) for rows in self._read(number)]

    def rows(self, number: int, place: int) -> list[dict[str, Any]]:
        """All attempts of the group at a place of a file; InputError when it has no such place."""
        groups = self.groups(number)
        if not 0 <= place < len(groups):
            raise InputError(f"file {number} has {len(groups)} groups", where=str(self._rollouts), found=str(place))
        group = groups[place]
        if not group.size:
            return list(self._read(number)[place])
        with open(self._file(number), "rb") as file:
            file.seek(group.at)
            member = gzip.decompress(file.read(group.size))
        return [json.loads(line) for line in member.splitlines()]

    def of_task(self, task: str) -> list[tuple[int, int, IndexedGroup]]:
        """Where a question was asked: (number, place, group) in the order of the files."""
        known = self._lines_with(f'"task": {json.dumps(task, ensure_ascii=False)}, '.encode("utf-8", "replace"))
        indexed = self._lines()
        candidates = sorted({number for number in self.numbers() if number in known or number not in indexed})
        return [
            (number, place, group)
            for number in candidates
            for place, group in enumerate(self.groups(number))
            if group.task == task
        ]

    def _file(self, number: int) -> Path:
        path = self._rollouts / f"{number:06d}.jsonl.gz"
        if not path.exists():
            raise InputError(f"there are no attempts at {number}", where=str(self._rollouts))
        return path

    def _read(self, number: int) -> list[list[dict[str, Any]]]:
        about = (path := self._file(number)).stat()
        return _groups_of(path, about.st_mtime_ns, about.st_size)

    def _lines(self) -> dict[int, int]:
        """Where the last whole line about each file begins."""
        about = (length_of(self._path), self._path.stat().st_mtime_ns) if self._path.exists() else (0, 0)
        return _lines_of(self._path, *about)

    def _line(self, start: int) -> dict[str, Any]:
        with open(self._path, "rb") as file:
            file.seek(start)
            return json.loads(file.readline())

    def _lines_with(self, part: bytes) -> set[int]:
        """The file numbers of the lines that contain `part`."""
        numbers, place = set(), 0
        with _mapped(self._path) as lines:
            while (place := lines.find(part, place)) >= 0:
                numbers.add(_number_at(lines, lines.rfind(b"\n", 0, place) + 1))
                place = lines.find(b"\n", place)
                if place < 0:
                    break
        return numbers


def index_line(number: int, groups: Sequence[Sequence[Row]], members: Sequence[bytes]) -> dict[str, Any]:
    """The line about a file: the groups' rows, and the gzip member that each was written as."""
    entries, at = [], 0
    for rows, member in zip(groups, members, strict=True):
        entries.append(asdict(summary(rows)) | {"at": at, "size": len(member)})
        at += len(member)
    return {"number": number, "bytes": at, "groups": entries}


def summary(rows: Sequence[Row]) -> IndexedGroup:
    """What a list of questions shows of one group."""
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    parts: dict[str, list[float]] = {}
    for row in rows:
        for name, score in row["scores"].items():
            if score["value"] is not None:
                parts.setdefault(name, []).append(score["value"])
    first = rows[0]
    return IndexedGroup(
        task=first["task"],
        kind=first["kind"],
        source=first["source"],
        prompt=first["prompt"][:EXCERPT],
        samples=len(rows),
        reward=_short(fmean(rewards)) if rewards else None,
        low=min(rewards, default=None),
        high=max(rewards, default=None),
        scores={name: _short(fmean(values)) for name, values in parts.items()},
        tokens=_short(fmean(row["tokens"] for row in rows)),
        cut=sum(row["finish"] == "length" for row in rows),
    )


def _short(value: float) -> float:
    """Six digits, which is what an index of millions has room for."""
    return float(f"{value:.6g}")


def split_groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Consecutive rows of one group: the same task, with rising sample numbers."""
    group: list[dict[str, Any]] = []
    for row in rows:
        if group and (row["task"] != group[-1]["task"] or row["sample"] <= group[-1]["sample"]):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


@lru_cache(maxsize=16)
def _groups_of(path: Path, modified: int, size: int) -> list[list[dict[str, Any]]]:
    """Every group of a file, kept for as long as the file is the same."""
    return list(split_groups(read_rows(path)))


@lru_cache(maxsize=64)
def _lines_of(path: Path, size: int, modified: int) -> dict[int, int]:
    lines, start = {}, 0
    with _mapped(path) as content:
        while (end := content.find(b"\n", start)) >= 0:
            lines[_number_at(content, start)] = start
            start = end + 1
    return lines


def _number_at(lines: bytes | mmap.mmap, start: int) -> int:
    """The number in a line's beginning."""
    return int(bytes(lines[start : start + 40]).removeprefix(b'{"number": ').partition(b",")[0])


@contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file that may be empty or absent, without reading them all."""
    if not length_of(path):
        yield b""
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as found:
        yield found
