"""The run directory: one id for life, its attempts, the graph of the last one, and where each step's folder is."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinkery.errors import UsageError
from thinkery.pipeline.artifact import DROPPED, MANIFEST, Artifact, load_artifact
from thinkery.pipeline.files import hash_file, read_json, sync_path, write_json, writing
from thinkery.pipeline.provenance import commit, versions
from thinkery.pipeline.record import Events
from thinkery.pipeline.run import CHECKPOINTS, JOURNAL, MEASURED, PROGRESS, SINKS
from thinkery.pipeline.step import Step

SCHEMA = 1
ABOUT, BRANCHED = "step.json", "branched.json"


class Home:
    """An opened run directory during one attempt; the caller holds its lock."""

    def __init__(self, dir: Path, seed: int, order: Sequence[Step], listen: Any = None) -> None:
        self.dir = dir
        self.run = _read_run(dir) or _new_run(seed)
        if not self.run["attempts"]:  # a branch that has not begun has its source's, and may be given another
            self.run["seed"] = seed
        if self.run["seed"] != seed:
            hint = f"another run directory, or seed = {self.run['seed']}"
            found = f"seed {self.run['seed']} in run.json, {seed} asked for"
            raise UsageError("a run keeps its seed for life", where=str(dir), found=found, hint=hint)
        self._begin_attempt(order)
        self.events = Events(dir / "events.jsonl", self.attempt, listen)

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run["id"]

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return len(self.run["attempts"])

    @property
    def code(self) -> dict[str, Any]:
        """The commit and the versions that this attempt works with."""
        return {name: self.run["attempts"][-1][name] for name in ("commit", "versions")}

    @property
    def attic(self) -> Path:
        """Where this attempt puts aside what it does not continue."""
        return self.dir / "attempts" / str(self.attempt)

    def artifact(self, step: Step) -> Artifact | None:
        """What a step has made, None when it is not done."""
        return find_artifact(self.dir, step)

    def open_folder(self, step: Step, inputs: Mapping[str, Artifact]) -> tuple[Path, dict[str, Any]]:
        """The working folder of a step that is to run, and what identifies the step for its manifest."""
        partial = partial_folder(self.dir, step)
        branched = self.dir / "steps" / f"{step.name}.branch"
        about = step.describe() | {
            "inputs": {n: {"name": a.name, "key": a.key, "content": a.manifest["content"]} for n, a in inputs.items()}
        }
        if step_folder(self.dir, step).exists():
            self.set_aside(step)  # its manifest is gone, so it is not whole
        with writing(partial):
            if branched.exists() and not partial.exists():
                branched.rename(partial)
            partial.mkdir(parents=True, exist_ok=True)
        if (partial / BRANCHED).exists():
            about["branched_from"] = read_json(partial / BRANCHED)
        write_json(partial / ABOUT, about)
        return partial, about

    def seal(self, step: Step, made: Artifact, ending: Mapping[str, Any]) -> Artifact:
        """Write the manifest, give the folder its final name, and drop what only an unfinished step needs."""
        partial, folder = partial_folder(self.dir, step), step_folder(self.dir, step)
        written = (partial / "metrics.jsonl", partial / DROPPED, *sorted(partial.glob("rollouts/*.jsonl.gz")))
        logs = [path for path in written if path.exists()]
        for path in {*logs, *(path.parent for path in logs)}:
            sync_path(path)  # what the manifest names is on the disk before the manifest is
        record = {path.relative_to(partial).as_posix(): hash_file(path) for path in logs}
        ending = {**ending, "created": round(time.time(), 3), **self.code}
        write_json(partial / MANIFEST, {**made.manifest, "record": record, **ending})
        finish_folder(partial, folder)
        return load_artifact(folder)

    def set_aside(self, step: Step) -> None:
        """Move a step's folders, done, begun or brought by a branch, to `attempts/N/`."""
        brought = self.dir / "steps" / f"{step.name}.branch"
        for folder in (step_folder(self.dir, step), partial_folder(self.dir, step), brought):
            if folder.exists():
                with writing(self.attic):
                    self.attic.mkdir(parents=True, exist_ok=True)
                    folder.rename(self.attic / folder.name)

    def end_attempt(self, outcome: str) -> None:
        """Note how this attempt ended."""
        self.run["attempts"][-1] |= {"ended": round(time.time(), 3), "outcome": outcome}
        write_json(self.dir / "run.json", self.run)

    def _begin_attempt(self, order: Sequence[Step]) -> None:
        self.run["graph"] = [
            {"name": s.name, "key": s.key, "kind": s.kind, "inputs": {n: i.name for n, i in s.inputs.items()}}
            for s in order
        ]
        began = {"started": round(time.time(), 3), "pid": os.getpid(), "host": platform.node()}
        self.run["attempts"].append({"number": self.attempt + 1, **began, "commit": commit(), "versions": versions()})
        write_json(self.dir / "run.json", self.run)


def step_folder(dir: Path, step: Step) -> Path:
    """Where a done step is."""
    return dir / "steps" / step.folder


def partial_folder(dir: Path, step: Step) -> Path:
    """Where a step is while it is not done."""
    return dir / "steps" / f"{step.folder}.partial"


def find_artifact(dir: Path, step: Step) -> Artifact | None:
    """What a step has made in a run directory, None when it is not done; changes nothing."""
    for folder in (step_folder(dir, step), partial_folder(dir, step)):
        if (folder / MANIFEST).exists():
            return load_artifact(folder)
    return None


def finish_folder(partial: Path, folder: Path) -> None:
    """Give a sealed folder its final name and drop what only an unfinished one needs; completes this after a kill."""
    with writing(folder):
        if not folder.exists():
            partial.rename(folder)
            sync_path(folder.parent)
        for name in (CHECKPOINTS, SINKS):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (JOURNAL, PROGRESS, MEASURED, ABOUT, BRANCHED):
            (folder / name).unlink(missing_ok=True)


def branched_run(source: Mapping[str, Any], step: str, checkpoint: str = "") -> dict[str, Any]:
    """The `run.json` of a new run that begins where `step` of another one is, or was at a checkpoint."""
    return _new_run(source["seed"]) | {"branched_from": origin(source["id"], step, checkpoint)}


def origin(run: str, step: str, checkpoint: str = "") -> dict[str, str]:
    """Where a run has begun as a branch."""
    return {"run": run, "step": step} | ({"checkpoint": checkpoint} if checkpoint else {})


def _new_run(seed: int) -> dict[str, Any]:
    id = time.strftime("%Y%m%d-", time.gmtime()) + secrets.token_hex(4)
    return {"schema": SCHEMA, "id": id, "created": round(time.time(), 3), "seed": seed, "attempts": [], "graph": []}


def _read_run(dir: Path) -> dict[str, Any] | None:
    path = dir / "run.json"
    return read_json(path) if path.exists() else None
