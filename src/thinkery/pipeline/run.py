"""What a stage gets: where to work, what to record, how to survive being killed, how to hand over what it made.

def count(run: Run, cfg: Count) -> Report:
    state = load(saved) if (saved := run.latest()) else new()
    while state.step < cfg.steps:
        state.advance()
        run.metrics(state.step, {"total": state.total})
        if run.stopping or state.step % 100 == 0:
            run.checkpoint(state.step, state.save)
        if run.stopping:
            run.stop()
    return run.save_report({"total": state.total})
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from thinkery.core import Group
from thinkery.errors import InputError, Stopped
from thinkery.pipeline.artifact import SCHEMA, Dataset, Model, Report, content_hash
from thinkery.pipeline.card import write_card
from thinkery.pipeline.checkpoint import read_checkpoint, size_of_last, write_checkpoint
from thinkery.pipeline.dataset import DatasetWriter, Shards
from thinkery.pipeline.files import (
    free_bytes,
    hash_folder,
    read_rows,
    read_state,
    size_text,
    write_file,
    write_folder,
    write_json,
)
from thinkery.pipeline.progress import Progress
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.pipeline.record import Advantages, Events, Record

CHECKPOINTS, JOURNAL, PROGRESS, SINKS = "checkpoints", "journal.jsonl", "progress.json", "sinks"
MEASURED = "pool.jsonl"
"""Pass rates of tasks that were asked before a pool was whole (`train/pool.py`)."""
NOTHING = {"metrics": 0, "rollouts": -1}


class Run:
    """One execution of one step. Of several ranks each has one; all make the same calls and only rank 0 writes.

    `build` makes it; alone, `Run(folder, "zero", seed=1)` is enough to call a stage.
    """

    def __init__(
        self,
        dir: Path,
        step: str,
        *,
        seed: int = 0,
        id: str = "",
        ranks: Ranks = ALONE,
        root: Path | None = None,
        attempt: int = 1,
        about: Mapping[str, Any] | None = None,
        events: Events | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.id = id or secrets.token_hex(4)
        """Of the whole run, for life."""
        self.step, self.dir, self.seed = step, dir, seed
        self.ranks, self.rank = ranks, ranks.rank
        self._asked = self._agreed = False
        dir.mkdir(parents=True, exist_ok=True)
        self.root = root or dir
        """The directory of the whole run."""
        self.attempt = attempt
        """The number of this attempt at the run, from 1."""
        self._about = about or {"name": step, "key": ""}
        self._events = events or Events(self.root / "events.jsonl", attempt)
        self._record = Record(dir, step, self._about["key"], self._events)
        self.on_metrics: Callable[[Mapping[str, Any]], None] | None = None
        """Gets every row of metrics besides the record."""
        self._progress = progress
        self._state = _read_progress(dir)
        self._shown = 0.0
        self._began = time.monotonic() - self._state["seconds"]
        self._warned = False

    @property
    def stopping(self) -> bool:
        """A first Ctrl-C or SIGTERM asks to stop: finish the step, checkpoint, call `stop()`.

        Several ranks agree on it in `progress`, so that all of them stop at the same step.
        """
        return self._asked if self.ranks is ALONE else self._agreed

    @stopping.setter
    def stopping(self, asked: bool) -> None:
        self._asked = asked

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings of the step, as JSON; empty where it has none."""
        return self._about.get("config") or {}

    @property
    def seconds(self) -> float:
        """Time spent on what the record shows: this attempt's, and earlier ones' up to the checkpoint."""
        return time.monotonic() - self._began

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row to the curves; NaN and infinity are written as null."""
        if self.rank == 0:
            row = self._record.metrics(step, values)
            if self.on_metrics:
                self.on_metrics(row)

    def curves(self) -> list[dict[str, Any]]:
        """The rows of metrics that the record has now."""
        path = self._record.metrics_path
        return list(read_rows(path)) if path.exists() else []

    def rollouts(self, step: int, groups: Sequence[Group], advantages: Advantages | None = None) -> None:
        """Keep every attempt of one step, once per step; `advantages[g][i]` belongs to group g's i-th rollout."""
        if self.rank == 0:
            self._record.rollouts(step, groups, advantages)

    def recorded(self) -> dict[int, Path]:
        """The files of attempts that are in the record already, by step: what a killed stage need not sample again."""
        return self._record.recorded()

    def event(self, kind: str, /, **data: Any) -> None:
        """Note that something happened."""
        if self.rank == 0:
            self._events.add(kind, self.step, self._about["key"], **data)

    def alarm(self, kind: str, message: str, setting: str = "", advice: str = "") -> None:
        """Warn the person in front of it: what was seen, what to do about it, and the setting to change."""
        self.event("alarm", alarm=kind, message=message, setting=setting, advice=advice)
        remedy = "; ".join(part for part in (advice, setting and f"setting: {setting}") if part)
        self.note(f"alarm {kind}: {message}" + (f"  ({remedy})" if remedy else ""))

    def note(self, text: str) -> None:
        """Say a line to the person in front of it; the record does not keep it."""
        if self.rank == 0 and self._progress:
            self._progress.note(text)

    def progress(self, done: int, total: int, **headline: float | str) -> None:
        """Say how far the step is, with the few numbers worth a glance; ranks agree here on whether to stop."""
        self._agreed = self.ranks.any(self._asked)
        if self.rank:
            return
        self._state = {"done": done, "total": total, "seconds": round(self.seconds, 3)}
        if time.monotonic() - self._shown > 1 or done == total:
            write_file(self.dir / PROGRESS, json.dumps(self._state), sync=False)
            self._shown = time.monotonic()
        if self._progress:
            self._progress.update(done, total, headline)

    def checkpoint(self, step: int, save: Callable[[Path], object], ringing: Sequence[str] = ()) -> None:
        """Let `save` fill a folder that counts only when it is whole; the two newest stay, and the newest at which no
        alarms were `ringing`.

        Every rank calls `save` with the same folder, and it says which of them writes what. DiskFull before any work
        when another as large as the last one does not fit.
        """
        save = self._all_ranks(save)
        if self.rank:
            save(self.dir)
            return
        self._warn_of_little_room()
        self.event("checkpoint", at_step=step)
        note = {"marks": self._record.marks(), "seconds": round(self.seconds, 3), "ringing": list(ringing)}
        write_checkpoint(self.dir / CHECKPOINTS, step, save, note)
        self._events.kept = True

    def latest(self) -> tuple[int, Path] | None:
        """The newest whole checkpoint as (step, folder), None when there is none. Call it first, and once.

        What was recorded after it moves to `attempts/N/`, so that curves continue where it was.
        """
        found = read_checkpoint(self.dir / CHECKPOINTS)
        note = found[1] if found else {"step": -1, "seconds": 0.0, "marks": NOTHING}
        if self.rank == 0:
            attic = self.root / "attempts" / str(self.attempt) / self.dir.name
            self._record.rewind(note["step"], note["marks"], attic)
        self._began = time.monotonic() - note["seconds"]
        if found is None:
            return None
        self.event("resumed", at_step=note["step"])
        return note["step"], found[0]

    def stop(self) -> NoReturn:
        """End here because it was asked for; raises Stopped. Checkpoint first."""
        raise Stopped("stopped on request", where=f"step {self.step!r}", hint="the same command continues")

    def save_model(self, write: Callable[[Path], object]) -> Model:
        """Let `write` fill the Hugging Face folder of the model that this step makes; its card gets the lineage."""

        def write_with_lineage(folder: Path) -> None:
            write(folder)
            if self.rank == 0:
                write_card(folder, self.root, self._about, self.seed)

        return Model(self.dir, self._manifest("Model", "model", self._written("model", write_with_lineage)))

    def reference_model(self, folder: Path) -> Model:
        """A model that stays where it is: the folder's path and the hashes of its files are recorded, not the bytes."""
        place = folder.resolve()
        if not place.is_dir():
            raise InputError("there is no such model folder", where=str(folder))
        return Model(self.dir, self._manifest("Model", str(place), hash_folder(place)))

    def dataset(self, shards: Shards = "jsonl") -> DatasetWriter:
        """The dataset that this step makes, with the rows that an earlier attempt already wrote."""

        def seal(write: Callable[[Path], None], extra: dict[str, Any]) -> Dataset:
            return Dataset(self.dir, self._manifest("Dataset", "data", self._written("data", write), **extra))

        return DatasetWriter(self.dir / JOURNAL, seal, shards)

    def save_report(self, data: dict[str, Any], files: Mapping[str, bytes | str] | None = None) -> Report:
        """Write `report.json` and the files beside it."""

        def write(folder: Path) -> None:
            write_json(folder / "report.json", data)
            for name, content in (files or {}).items():
                write_file(folder / name, content)

        return Report(self.dir, self._manifest("Report", "report", self._written("report", write)))

    def finished(self) -> dict[str, Any]:
        """What is known of the execution when it ends, for the manifest."""
        return {
            "done": self._state["done"],
            "total": self._state["total"],
            "seconds": round(self.seconds, 3),
            "run": self.id,
            "seed": self.seed,
        }

    def _written(self, name: str, write: Callable[[Path], object]) -> dict[str, dict[str, Any]]:
        write, files = self._all_ranks(write), {}
        if self.rank:
            write(self.dir)
        else:
            write_folder(self.dir / name, write)
            files = hash_folder(self.dir / name)
        return self.ranks.tell(files)

    def _all_ranks(self, write: Callable[[Path], object]) -> Callable[[Path], None]:
        """`write` on every rank, into the folder that rank 0 gives, and ended when all have."""

        def together(folder: Path) -> None:
            write(self.ranks.tell(folder))
            self.ranks.gather(None)

        return together

    def _manifest(self, kind: str, folder: str, files: dict[str, dict[str, Any]], **extra: Any) -> dict[str, Any]:
        content = {"kind": kind, "folder": folder, "content": content_hash(files), "files": files}
        return {"schema": SCHEMA, **self._about, **content, **extra}

    def _warn_of_little_room(self) -> None:
        size, free = size_of_last(self.dir / CHECKPOINTS), free_bytes(self.dir)
        if free < 2 * size and not self._warned:
            self._warned = True
            seen = f"room for fewer than two checkpoints: {size_text(free)} free, {size_text(size)} each"
            self.alarm("disk", seen, "--dir", "free some space, or continue a copy of the run on another disk")


def _read_progress(dir: Path) -> dict[str, Any]:
    return read_state(dir / PROGRESS) or {"done": 0, "total": 0, "seconds": 0.0}
