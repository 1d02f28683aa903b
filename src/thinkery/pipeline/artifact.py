"""What steps make: a Model, a Dataset or a Report, each a folder with a manifest of what it is and came from.

`artifact.json` is written last, so a folder that has one is whole. Its `files` are the content, and `content` is one
hash over them that depends on no clock; its `record` are the logs. `docs/record.md` lists every field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thinkery.core import Message, Task
from thinkery.errors import HashMismatch, InputError
from thinkery.pipeline.files import hash_file, read_json, read_rows

SCHEMA = 1
MANIFEST = "artifact.json"
DROPPED = "dropped.jsonl"


@dataclass(frozen=True)
class Artifact:
    """A finished step's folder and its manifest."""

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """The step that made it."""
        return self.manifest["name"]

    @property
    def key(self) -> str:
        """The key of the step that made it."""
        return self.manifest["key"]

    @property
    def kind(self) -> str:
        """ "Model", "Dataset" or "Report"."""
        return self.manifest["kind"]

    @property
    def folder(self) -> Path:
        """Where its content is: inside `path`, or elsewhere for a model that is only pointed to."""
        return self.path / self.manifest["folder"]

    def verify(self) -> None:
        """Read every byte and compare with the hashes; HashMismatch names the first file that differs or is gone."""
        for base, files in ((self.folder, self.manifest["files"]), (self.path, self.manifest.get("record", {}))):
            for name, written in files.items():
                verify_file(base / name, written, hint=self._remedy)

    @property
    def _remedy(self) -> str:
        return f"restore the file, or make it again: thinkery run … --fresh --only {self.name}"


class Model(Artifact):
    """Weights with a history: `folder` is a Hugging Face folder."""


class Dataset(Artifact):
    """Rows in shards, gzipped JSON lines or Parquet, in the order of their keys."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row, streamed shard by shard."""
        for shard in sorted((*self.folder.glob("*.jsonl.gz"), *self.folder.glob("*.parquet"))):
            yield from read_parquet(shard) if shard.suffix == ".parquet" else read_rows(shard)

    def tasks(self) -> Iterator[Task]:
        """The rows as tasks; InputError where a row is none."""
        for number, row in enumerate(self.rows(), 1):
            try:
                yield row_to_task(row)
            except KeyError as error:
                raise InputError(f"row {number} is not a task: no {error}", where=str(self.folder)) from error

    def __len__(self) -> int:
        return self.manifest["rows"]

    @property
    def funnel(self) -> dict[str, int]:
        """How many were counted under each reason on the way here, in the order of the first count."""
        return dict(self.manifest["funnel"])

    @property
    def funnel_by_source(self) -> dict[str, dict[str, int]]:
        """The same by source, as far as the stage named one."""
        return dict(self.manifest.get("funnel_by_source", {}))

    def dropped(self) -> list[dict[str, Any]]:
        """The first few examples of each reason for leaving something out: {reason, row}."""
        path = self.path / DROPPED
        return list(read_rows(path)) if path.exists() else []

    @property
    def meta(self) -> dict[str, Any]:
        """What the stage said about the whole when it finished."""
        return dict(self.manifest["meta"])


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file; EnvironmentLacks where pyarrow is not installed."""
    from thinkery.pipeline import parquet  # which takes a third of a second, and is an extra

    return parquet.read_rows(path)


class Report(Artifact):
    """Figures for people: `report.json` and the files beside it, all in `folder`."""

    @property
    def data(self) -> dict[str, Any]:
        """What `report.json` holds."""
        return read_json(self.folder / "report.json")

    def attempts(self) -> Iterator[dict[str, Any]]:
        """The judged attempts that the step recorded (rows of `rollouts/`, see docs/record.md)."""
        for file in sorted(self.path.glob("rollouts/*.jsonl.gz")):
            yield from read_rows(file)


KINDS: dict[str, type[Artifact]] = {"Model": Model, "Dataset": Dataset, "Report": Report}


def load_artifact(path: Path) -> Artifact:
    """The artifact in a finished folder; InputError when the folder is not one."""
    manifest = read_json(path / MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise InputError(
            "made by another version of Thinkery", where=str(path / MANIFEST), found=f"schema {manifest.get('schema')}"
        )
    return KINDS[manifest["kind"]](path, manifest)


def content_hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash over names and hashes of files: equal for equal content, wherever and whenever it was written."""
    text = "".join(f"{name}\0{files[name]['sha256']}\n" for name in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


def verify_file(path: Path, written: Mapping[str, Any], *, hint: str) -> None:
    """Compare a file with the size and hash it was written with; HashMismatch names it."""
    if not path.is_file():
        raise HashMismatch("the file is missing", where=str(path), hint=hint)
    found = hash_file(path)
    if found["size"] != written["size"]:
        what = f"{written['size']} bytes were written"
        raise HashMismatch(what, where=str(path), found=f"{found['size']} bytes", hint=hint)
    if found["sha256"] != written["sha256"]:
        what = f"the bytes are not those that were written, sha256 {written['sha256'][:12]}…"
        raise HashMismatch(what, where=str(path), found=f"{found['sha256'][:12]}…", hint=hint)


def task_to_row(task: Task) -> dict[str, Any]:
    """A task as a row of JSON; `row_to_task` gives it back."""
    row = {
        "id": task.id,
        "prompt": task.prompt,
        "kind": task.kind,
        "gold": task.gold,
        "language": task.language,
        "source": task.source,
        "history": [asdict(message) for message in task.history],
        "info": dict(task.info),
    }
    return row | ({"chat_template": task.chat_template} if task.chat_template else {})


def row_to_task(row: Mapping[str, Any]) -> Task:
    """The task that `task_to_row` wrote; `id` and `prompt` must be there, other keys are ignored."""
    history = tuple(Message(**message) for message in row.get("history") or ())
    known = {name: row[name] for name in ("kind", "gold", "language", "source", "chat_template") if name in row}
    return Task(id=row["id"], prompt=row["prompt"], history=history, info=dict(row.get("info") or {}), **known)
