"""An evaluation in a folder of its own: asked, judged and measured, continued after a kill, judged again later.

evals/tiny/gsm8k-1f0c9a2b/
├── asked.json        who was asked what, how and judged by whom; another command on the folder is refused
├── attempts.jsonl    every judged attempt (rows as in `docs/record.md`), written as it comes
├── unjudged.jsonl    where another model judges: the attempts before it did
├── results.json      the numbers
└── rescored.jsonl, rescored.json    the same under the rewards of a later day, by `thinkery eval --rescore`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkery.engine.base import Engine
from thinkery.errors import InputError, UsageError
from thinkery.evals.attempts import ATTEMPTS, Attempts, OnGroup, ask, judge, numbers
from thinkery.evals.benchmark import Benchmark
from thinkery.evals.measure import cut_note
from thinkery.evals.metrics import Estimate
from thinkery.pipeline.files import read_json, write_json
from thinkery.pipeline.lock import locked

ASKED, UNJUDGED = "asked.json", "unjudged.jsonl"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One benchmark, and the folder that is held for it."""

    folder: Path
    benchmark: Benchmark
    asked: Attempts
    """The attempts, judged or not."""
    judged: Attempts
    """The judged attempts; the same file where no other model judges."""

    @property
    def unasked(self) -> int:
        """Questions that are still to be asked."""
        return len(self.benchmark.tasks) - len(self.asked.done)

    @property
    def unjudged(self) -> int:
        """Questions that are answered, and not judged yet."""
        return len(self.asked.done - self.judged.done)

    def ask(self, engine: Engine, seed: int, on_group: OnGroup) -> None:
        """Ask what is still to be asked."""
        ask(engine, self.benchmark, self.asked, seed=seed, on_group=on_group)

    def judge(self, engine: Engine | None, on_group: OnGroup) -> None:
        """Judge what is not judged yet, with the engine of the judge where another model is one."""
        judge(self.asked, self.benchmark.full_rubric(engine), self.judged, on_group=on_group)

    def results(self) -> dict[str, Any]:
        """The numbers and notes over what is judged, also written to `results.json` or `rescored.json`."""
        found = numbers(self.benchmark, self.judged)
        metrics: dict[str, Estimate] = found.estimates()
        data = {
            "benchmark": self.benchmark.name,
            "questions": len(self.benchmark.tasks),
            "judged": len(self.judged.done),
            "metrics": metrics,
            "notes": [*filter(None, [cut_note(metrics)]), *found.notes()],
        }
        name = "results.json" if self.judged.path.name == ATTEMPTS else "rescored.json"
        write_json(self.folder / name, data)
        return data


@contextmanager
def open_evaluation(folder: Path, benchmark: Benchmark, asked: Mapping[str, Any]) -> Iterator[Evaluation]:
    """Hold a new folder, or one that was begun with the same settings; UsageError names those that differ."""
    with locked(folder):
        _claim(folder, asked)
        judged = Attempts(folder / ATTEMPTS, benchmark)
        unjudged = Attempts(folder / UNJUDGED, benchmark) if benchmark.judged else judged
        yield Evaluation(folder, benchmark, unjudged, judged)


@contextmanager
def open_rescoring(folder: Path, benchmark: Benchmark) -> Iterator[Evaluation]:
    """Hold a folder whose attempts are judged again, into `rescored.jsonl`, by the rewards of today."""
    with locked(folder):
        raw = Attempts(folder / (UNJUDGED if (folder / UNJUDGED).exists() else ATTEMPTS), benchmark)
        if not raw.done:
            raise InputError("no question has been answered yet", where=str(folder), hint="thinkery eval first")
        (folder / "rescored.jsonl").unlink(missing_ok=True)
        yield Evaluation(folder, benchmark, raw, Attempts(folder / "rescored.jsonl", benchmark))


def read_settings(folder: Path) -> dict[str, Any]:
    """What a folder was begun with; InputError where it is none of an evaluation, or of another version."""
    if not (folder / ASKED).is_file():
        raise InputError(f"not the folder of an evaluation: there is no {ASKED}", where=str(folder))
    settings = read_json(folder / ASKED)
    if settings.get("schema") != SCHEMA:
        raise InputError("made by another version of Thinkery", where=str(folder), found=f"{settings.get('schema')}")
    return settings


def find_folders(folder: Path) -> list[Path]:
    """The folders of evaluations that a folder is, or holds."""
    found = [path for path in (folder, *sorted(folder.glob("*/"))) if (path / ASKED).is_file()]
    if not found:
        raise InputError(f"no evaluation here: there is no {ASKED}", where=str(folder), hint="thinkery eval --out")
    return found


def settings_key(asked: Mapping[str, Any]) -> str:
    """Eight digits that other settings would not have."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]


def _claim(folder: Path, asked: Mapping[str, Any]) -> None:
    """Write down what is asked, or find that it is what the folder was begun with."""
    if not (folder / ASKED).exists():
        return write_json(folder / ASKED, {"schema": SCHEMA, **asked})
    before, now = _leaves(read_settings(folder)), _leaves(json.loads(json.dumps({"schema": SCHEMA, **asked})))
    if before != now:
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        changes = ", ".join(f"{name} {_short(before.get(name))} there, {_short(now.get(name))} now" for name in names)
        hint = "another --out, or the settings it was begun with"
        raise UsageError("the folder was begun with other settings", where=str(folder), found=changes, hint=hint)


def _short(value: Any) -> str:
    return f"{value!r:.20}"


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every value that is no table, by its dotted name."""
    if not isinstance(value, dict):
        return {path: value}
    return {name: leaf for key in value for name, leaf in _leaves(value[key], f"{path}.{key}".strip(".")).items()}
