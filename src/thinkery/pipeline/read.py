"""Reading a run directory, live or finished, without torch and without changing it: what `show` and `report` use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinkery.errors import InputError
from thinkery.pipeline.artifact import MANIFEST, Artifact, load_artifact
from thinkery.pipeline.files import read_json, read_rows, read_state
from thinkery.pipeline.index import Index
from thinkery.pipeline.lock import holder
from thinkery.pipeline.run import PROGRESS
from thinkery.pipeline.step import Step, suggestion


@dataclass(frozen=True, slots=True)
class StepRecord:
    """How far a step of a run is."""

    name: str
    key: str
    kind: str
    inputs: Mapping[str, str]
    """The steps it reads, by input name."""
    path: Path
    """Its folder, which exists unless it is "waiting"."""
    status: str
    """"done", "running", "stopped" (begun, resumable) or "waiting"."""
    done: int = 0
    total: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Lineage:
    """What an artifact came from."""

    artifact: str
    """The step that made it."""
    key: str
    content: str
    inputs: Mapping[str, Lineage] = field(default_factory=dict)

    def text(self, indent: str = "", label: str = "") -> str:
        """The tree, one line per artifact."""
        lines = [f"{indent}{label}{self.artifact}  key {self.key[:8]}  content {self.content[:12]}"]
        lines += [one.text(indent + "  ", f"{name}: ") for name, one in self.inputs.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class RunRecord:
    """A run directory's `run.json`, and the ways to read the rest."""

    path: Path
    run: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The run's id, for life."""
        return self.run["id"]

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """When and where it was worked on, and how each attempt ended."""
        return self.run["attempts"]

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, empty when none was kept."""
        path = self.path / "recipe.json"
        return read_json(path) if path.exists() else {}

    @property
    def steps(self) -> dict[str, StepRecord]:
        """The steps of the last attempt's graph, in order."""
        begun = [row["step"] for row in self.events() if row["kind"] == "begin"]
        running = begun[-1] if begun and holder(self.path) is not None else None
        return {n["name"]: _step_record(self.path, n, n["name"] == running) for n in self.run["graph"]}

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """What is done, by step."""
        return {name: load_artifact(one.path) for name, one in self.steps.items() if one.status == "done"}

    def events(self) -> list[dict[str, Any]]:
        """Everything that happened, in order."""
        return _rows(self.path / "events.jsonl")

    def alarms(self) -> list[dict[str, Any]]:
        """The alarms of the steps as they are now and of the last attempt as a whole, oldest first."""
        keys = {one.key[:8] for one in self.steps.values()}
        rung = [row for row in self.events() if row["kind"] == "alarm"]
        return [row for row in rung if (row["key"] in keys if row["step"] else row["attempt"] == len(self.attempts))]

    def metrics(self, step: str) -> list[dict[str, Any]]:
        """The curves of a step: one row per step number, later values of the same name winning."""
        merged: dict[int, dict[str, Any]] = {}
        for row in _rows(self._folder(step) / "metrics.jsonl"):
            merged.setdefault(row["step"], {}).update(row)
        return list(merged.values())

    def index(self, step: str) -> Index:
        """Where each question's attempts lie in the step's files."""
        return Index(self._folder(step))

    def rollout_steps(self, step: str) -> list[int]:
        """The step numbers that have rollouts."""
        return self.index(step).numbers()

    def rollouts(self, step: str, n: int) -> list[dict[str, Any]]:
        """Every attempt of step number `n`, by group and sample; InputError when there are none."""
        path = self._folder(step) / "rollouts" / f"{n:06d}.jsonl.gz"
        if not path.exists():
            raise InputError(f"step {step!r} has no rollouts at {n}", where=str(self.path))
        return _rows(path)

    def lineage(self, step: str) -> Lineage:
        """What a done step's artifact came from, back to the first; InputError when it is not done."""
        artifacts = self.artifacts
        if step not in artifacts:
            raise InputError(f"step {step!r} is not done", where=str(self.path), hint=suggestion(step, artifacts))
        return _lineage(artifacts[step].manifest, artifacts)

    def _folder(self, step: str) -> Path:
        steps = self.steps
        if step not in steps:
            raise InputError(f"there is no step {step!r}", where=str(self.path), hint=suggestion(step, steps))
        return steps[step].path


KEYS = ("id", "seed", "created", "graph", "attempts")
"""What every run.json has."""


def open_run(dir: Path) -> RunRecord:
    """The record of a run; InputError when the directory is none."""
    if not (dir / "run.json").exists():
        raise InputError("not a run directory: there is no run.json", where=str(dir))
    run = read_json(dir / "run.json")
    if lacks := [key for key in KEYS if not isinstance(run, dict) or key not in run]:
        hint = "restore it from a copy, or name another directory"
        raise InputError("not the run.json of a run", where=str(dir), found=f"no {', '.join(lacks)}", hint=hint)
    return RunRecord(dir, run)


def graph(steps: Iterable[Step | StepRecord], notes: Mapping[str, str] | None = None, width: int | None = None) -> str:
    """Draw a graph as text, one line per step: its inputs' lines lead to its ●; `notes` are added by name. Where lines
    are longer than `width` they do not say the inputs' names.

    ●      base     Model
    ├─●    zero     Model  ← base
    └─┴─●  compare  Report ← base, zero
    """
    nodes = {step.name: step for step in steps}
    reads = {name: _input_names(step) for name, step in nodes.items()}
    arrows = [f"← {', '.join(names)}" if names else "" for names in reads.values()]
    kinds = [step.kind for step in nodes.values()]
    remarks = [(notes or {}).get(name, "") for name in nodes]
    columns = [_padded(column) for column in (_lanes(reads), list(nodes), kinds, arrows, remarks)]
    if width is not None and sum(max(map(len, column), default=0) + 2 for column in columns) - 2 > width:
        del columns[3]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def _padded(column: list[str]) -> list[str]:
    width = max(map(len, column), default=0)
    return [f"{cell:<{width}}" for cell in column]


def _lanes(inputs: Mapping[str, list[str]]) -> list[str]:
    """A row of lanes per node; a lane runs from a node down to the last one that reads it."""
    names = list(inputs)
    last = {name: max([names.index(n) for n in names if name in inputs[n]], default=-1) for name in names}
    lanes: list[str | None] = []
    rows = []
    for row, name in enumerate(names):
        reads = [lanes.index(read) for read in inputs[name] if read in lanes]
        place = next((i for i in range(max(reads, default=-1) + 1, len(lanes)) if lanes[i] is None), len(lanes))
        lanes[place : place + 1] = [name]
        ends = [last[lane] <= row if lane else True for lane in lanes]
        rows.append("".join(_cell(i, place, reads, lanes, ends) for i in range(len(lanes))).rstrip())
        lanes = [lane if lane and last[lane] > row else None for lane in lanes]
    return rows


def _cell(i: int, place: int, reads: list[int], lanes: list[str | None], ends: list[bool]) -> str:
    first = min(reads, default=place)
    line = "─" if first <= i < place else " "
    if i == place:
        return "● "
    if i in reads:
        return ("└" if ends[i] else "├") + line if i == first else ("┴" if ends[i] else "┼") + line
    if lanes[i] is None:
        return line * 2
    return "│" + line


def _input_names(step: Step | StepRecord) -> list[str]:
    return list(dict.fromkeys(one if isinstance(one, str) else one.name for one in step.inputs.values()))


def _step_record(dir: Path, node: Mapping[str, Any], live: bool) -> StepRecord:
    folder = dir / "steps" / f"{node['name']}-{node['key'][:8]}"
    partial = folder.with_name(folder.name + ".partial")
    common = (node["name"], node["key"], node["kind"], node["inputs"])
    made = read_state(folder / MANIFEST)
    if made is None and not partial.exists():
        made = read_state(folder / MANIFEST)  # it may have been sealed between the two looks
        if made is None:
            return StepRecord(*common, folder, "waiting")
    if made is not None:
        return StepRecord(*common, folder, "done", made["done"], made["total"], made["seconds"])
    state = read_state(partial / PROGRESS) or {}
    return StepRecord(*common, partial, "running" if live else "stopped", **state)


def _lineage(manifest: Mapping[str, Any], made: Mapping[str, Artifact]) -> Lineage:
    inputs = {}
    for name, read in manifest["inputs"].items():
        unknown = Lineage(read["name"], read["key"], read["content"])
        inputs[name] = _lineage(made[read["name"]].manifest, made) if read["name"] in made else unknown
    return Lineage(manifest["name"], manifest["key"], manifest["content"], inputs)


def _rows(path: Path) -> list[dict[str, Any]]:
    with suppress(FileNotFoundError):  # a step is sealed, or set aside, while others read it
        return list(read_rows(path))
    return []
