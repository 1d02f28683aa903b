"""What a step did while it ran: metrics, every rollout with each reward and its reason, events; only ever appended to.

`marks()` are the lengths at a checkpoint. `rewind(marks)` puts what came later aside, so that curves continue where
the checkpoint was. The fields of every row are listed in `docs/record.md`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thinkery.core import Group, Rollout
from thinkery.pipeline.files import append_row, finite, length_of, sync_path, write_file, writing, zipped
from thinkery.pipeline.index import INDEX, index_line

Advantages = Sequence[Sequence[float | None]]


class Events:
    """The run's `events.jsonl`, shared by its steps; every row is also handed to `listen`."""

    def __init__(self, path: Path, attempt: int = 1, listen: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.path, self.attempt, self._listen = path, attempt, listen
        self.kept = False
        """Whether this attempt has put work on the disk that the next one need not do again."""

    def add(self, kind: str, step: str | None = None, key: str = "", /, **data: Any) -> None:
        """Write one event; `step` is None for what concerns the whole run, `key` tells its executions apart."""
        row = {"at": round(time.time(), 3), "attempt": self.attempt, "step": step, "key": key[:8], "kind": kind}
        if taken := sorted(row.keys() & data.keys()):
            raise ValueError(f"every event has these fields already: {', '.join(taken)}")
        row |= data
        append_row(self.path, row)
        if self._listen:
            self._listen(row)

    def rewind(self, step: str, key: str, at_step: int, attic: Path) -> None:
        """Put aside what earlier attempts wrote about a step after its checkpoint at `at_step`, or at all without one.

        The place is that checkpoint's own event: lengths change when another step is rewound, and are another run's in
        a branch.
        """
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            lines = [line for line in file if line.endswith(b"\n")]
        rows = [json.loads(line) for line in lines]
        mine = (step, key[:8], "checkpoint", at_step)
        seen = [n for n, row in enumerate(rows) if (row["step"], row["key"], row["kind"], row.get("at_step")) == mine]
        first = seen[-1] + 1 if seen else 0
        late = {n for n, row in enumerate(rows) if n >= first and self._is_earlier(row, step, key)}
        if late:
            write_file(attic / "events.jsonl", b"".join(lines[n] for n in sorted(late)))
            write_file(self.path, b"".join(line for n, line in enumerate(lines) if n not in late))

    def _is_earlier(self, row: Mapping[str, Any], step: str, key: str) -> bool:
        return (row["step"], row["key"]) == (step, key[:8]) and row["attempt"] < self.attempt


class Record:
    """The logs of one step in its folder."""

    def __init__(self, dir: Path, step: str, key: str, events: Events) -> None:
        self.dir, self._step, self._key, self._events = dir, step, key, events
        self._unsynced: list[Path] = []

    @property
    def metrics_path(self) -> Path:
        """Where the metrics are."""
        return self.dir / "metrics.jsonl"

    def metrics(self, step: int, values: Mapping[str, float]) -> dict[str, Any]:
        """Add one row of metrics, and return it."""
        numbers = {name: finite(value) for name, value in values.items()}
        row = {"step": step, "at": round(time.time(), 3), **numbers}
        append_row(self.metrics_path, row)
        return row

    def rollouts(self, step: int, groups: Sequence[Group], advantages: Advantages | None = None) -> None:
        """Write all attempts of one step as one file, whole or not at all; `advantages` are by group and sample."""
        path = self.dir / "rollouts" / f"{step:06d}.jsonl.gz"
        rows = [
            [
                rollout_row(step, rollout, advantages[g][r] if advantages is not None else None)
                for r, rollout in enumerate(group.rollouts)
            ]
            for g, group in enumerate(groups)
            if group.rollouts
        ]
        members = [zipped(group, level=1) for group in rows]
        write_file(path, b"".join(members) or zipped([], level=1), sync=False)
        self._unsynced.append(path)
        append_row(self.dir / INDEX, index_line(step, rows, members))

    def recorded(self) -> dict[int, Path]:
        """The files of attempts by step, in order; each is whole."""
        return {_number(path): path for path in sorted(self.dir.glob("rollouts/*.jsonl.gz"))}

    def marks(self) -> dict[str, int]:
        """Put the logs on the disk and say how long they are now."""
        for path in (self.metrics_path, self._events.path, *self._unsynced):
            if path.exists():
                sync_path(path)
        self._unsynced.clear()
        return {
            "metrics": length_of(self.metrics_path),
            "rollouts": max(map(_number, self.dir.glob("rollouts/*.jsonl.gz")), default=-1),
        }

    def rewind(self, at_step: int, marks: Mapping[str, int], attic: Path) -> None:
        """Move what was written after the checkpoint at `at_step`, with these `marks`, to the folder `attic`."""
        self._rewind_metrics(marks["metrics"], attic)
        for path in sorted(self.dir.glob("rollouts/*.jsonl.gz")):
            if _number(path) > marks["rollouts"]:
                with writing(attic):
                    (attic / "rollouts").mkdir(parents=True, exist_ok=True)
                    path.rename(attic / "rollouts" / path.name)
        self._events.rewind(self._step, self._key, at_step, attic)

    def _rewind_metrics(self, length: int, attic: Path) -> None:
        if length_of(self.metrics_path) <= length:
            return
        with open(self.metrics_path, "r+b") as file:
            file.seek(length)
            write_file(attic / "metrics.jsonl", file.read())
            file.truncate(length)


def rollout_row(step: int, rollout: Rollout, advantage: float | None = None) -> dict[str, Any]:
    """One judged attempt as a row of the record."""
    task, completion = rollout.task, rollout.completion
    row = {
        "step": step,
        "task": task.id,
        "kind": task.kind,
        "source": task.source,
        "prompt": task.prompt,
        "gold": task.gold,
        "language": task.language,
        "sample": rollout.sample,
        "text": completion.text,
        "thought": completion.thought,
        "answer": completion.answer,
        "closed": completion.closed,
        "finish": completion.finish,
        "tokens": len(completion.tokens),
        "version": completion.version,
        "reward": finite(rollout.reward),
        "scores": {name: {"value": finite(s.value), "reason": s.reason} for name, s in rollout.scores.items()},
    }
    if task.history:
        row["history"] = [{"role": m.role, "content": m.content} for m in task.history]
    if completion.spans:
        row["versions"] = [list(span) for span in completion.spans]
    if "template" in task.info:
        row["template"] = task.info["template"]
    if advantage is not None:
        row["advantage"] = finite(advantage)
    return row


def _number(path: Path) -> int:
    return int(path.name.split(".")[0])
