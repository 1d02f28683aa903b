"""`--branch RUN@STEP[:CHECKPOINT]`: continue a copy of a run with other settings.

The rule: every artifact that does not depend on STEP, and STEP's own, is linked into the new directory and counts
there as long as its key is still the same. If STEP is in progress, its newest checkpoint comes too, or the one that is
named: by its step, or as "good", the newest at which no alarm was ringing. The first execution of STEP in the new run
starts from it *whatever the settings are now*; its manifest then says so, under `branched_from`. A step without
checkpoints, such as one that makes a dataset, starts over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinkery.errors import UsageError
from thinkery.pipeline.artifact import MANIFEST
from thinkery.pipeline.checkpoint import choose_checkpoint, read_checkpoint
from thinkery.pipeline.files import link, read_json, write_file, write_folder, write_json
from thinkery.pipeline.home import ABOUT, branched_run
from thinkery.pipeline.index import INDEX
from thinkery.pipeline.lock import locked
from thinkery.pipeline.read import open_run
from thinkery.pipeline.run import CHECKPOINTS
from thinkery.pipeline.step import suggestion


def branch(source: Path, step: str, new: Path, checkpoint: str = "") -> None:
    """Make the run directory `new` from what `source` has up to `step`; the source may be running meanwhile.

    UsageError where there is a run already, or no such step or checkpoint; InputError where `source` is no run.
    """
    run = open_run(source).run
    graph = {node["name"]: node for node in run["graph"]}
    if step not in graph:
        raise UsageError(f"{source} has no step {step!r}", hint=suggestion(step, graph))
    if (new / "run.json").exists():
        raise UsageError("there is a run already", where=str(new), hint="another directory")
    found = _progress(source, graph[step], checkpoint)
    with locked(new):
        for name, node in graph.items():
            if step not in _ancestors(name, graph):
                _link_done(source, new, node)
        if found:
            _link_progress(*found, new, graph[step], run["id"])
        write_json(new / "run.json", branched_run(run, step, checkpoint))


def _ancestors(name: str, graph: Mapping[str, Any]) -> set[str]:
    read = set(graph[name]["inputs"].values())
    return read.union(*(_ancestors(one, graph) for one in read))


def _link_done(source: Path, new: Path, node: Mapping[str, Any]) -> None:
    folder = f"steps/{node['name']}-{node['key'][:8]}"
    if (source / folder / MANIFEST).exists():
        write_folder(new / folder, lambda made: link(source / folder, made))


def _progress(source: Path, node: Mapping[str, Any], which: str) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint of a step in progress that is asked for, with its note."""
    partial = source / "steps" / f"{node['name']}-{node['key'][:8]}.partial"
    if which and not partial.exists():
        hint = "a step that is done has none any more"
        raise UsageError(f"{node['name']} is not in progress and has no checkpoints", where=str(source), hint=hint)
    return choose_checkpoint(partial / CHECKPOINTS, which) if which else read_checkpoint(partial / CHECKPOINTS)


def _link_progress(checkpoint: Path, note: Mapping[str, Any], new: Path, node: Mapping[str, Any], run: str) -> None:
    """Link a checkpoint and the rollouts before it, and copy the logs up to it, as `steps/NAME.branch`."""
    partial = checkpoint.parent.parent
    about = {"run": run, "key": node["key"], "at": note["step"], "config": read_json(partial / ABOUT)["config"]}

    def fill(folder: Path) -> None:
        (folder / CHECKPOINTS).mkdir()
        link(checkpoint, folder / CHECKPOINTS / checkpoint.name)
        for path in partial.glob("rollouts/*.jsonl.gz"):
            if int(path.name.split(".")[0]) <= note["marks"]["rollouts"]:
                link(path, folder / "rollouts" / path.name)
        if (partial / "metrics.jsonl").exists():
            with open(partial / "metrics.jsonl", "rb") as file:
                write_file(folder / "metrics.jsonl", file.read(note["marks"]["metrics"]))
        if (partial / INDEX).exists():
            write_file(folder / INDEX, (partial / INDEX).read_bytes())
        write_json(folder / "branched.json", about)

    write_folder(new / "steps" / f"{node['name']}.branch", fill)
