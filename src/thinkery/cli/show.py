"""`thinkery show`: the graph of a run or a recipe, how far each step is, and what an artifact came from."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from thinkery.cli import models, terminal
from thinkery.pipeline.artifact import Artifact
from thinkery.pipeline.files import size_text
from thinkery.pipeline.progress import duration
from thinkery.pipeline.read import RunRecord, StepRecord, graph, open_run


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to show."""
    parser.add_argument(
        "what",
        nargs="?",
        default="",
        metavar="RUN[:STEP]|RECIPE",
        help="default: the latest run; with a step, its lineage",
    )
    parser.add_argument("--json", action="store_true", help="machine output on stdout")


def main(args: argparse.Namespace) -> None:
    """Show a run, one artifact of it, or a recipe that has not run."""
    run, _, step = args.what.rpartition(":")
    if not args.what:
        show_run(open_run(models.latest_run()), args.json)
    elif models.is_run(Path(args.what)):
        show_run(open_run(Path(args.what)), args.json)
    elif run and models.is_run(Path(run)):
        show_artifact(open_run(Path(run)), step, args.json)
    else:
        show_recipe(args.what, args.json)


def show_run(run: RunRecord, as_json: bool) -> None:
    """The graph with the status of each step, and every attempt."""
    steps = run.steps
    if as_json:
        rows = {name: {**asdict(step), "inputs": dict(step.inputs)} for name, step in steps.items()}
        terminal.emit({"id": run.id, "dir": run.path, "attempts": run.attempts, "steps": rows})
        return
    seed, begun = run.run["seed"], time.strftime("%Y-%m-%d %H:%M", time.localtime(run.run["created"]))
    print(f"run {terminal.styled(run.id, terminal.BOLD)} in {run.path}, seed {seed}, begun {begun}")
    print(graph(steps.values(), {name: status(step) for name, step in steps.items()}))
    print(terminal.styled(f"{len(run.attempts)} attempts; thinkery show {run.path}:STEP for one step", terminal.DIM))


def status(step: StepRecord) -> str:
    """How far a step is, in a few words."""
    part = f" {step.done}/{step.total}" if step.total and step.status != "done" else ""
    return f"{step.status}{part}" + (f" {duration(step.seconds)}" if step.seconds else "")


def show_artifact(run: RunRecord, step: str, as_json: bool) -> None:
    """What a done step made, with which settings and code, and its whole lineage."""
    lineage = run.lineage(step)
    artifact = run.artifacts[step]
    if as_json:
        terminal.emit({"manifest": dict(artifact.manifest), "lineage": asdict(lineage)})
        return
    print(describe(artifact))
    print(f"\ncame from\n{lineage.text('  ')}")


def describe(artifact: Artifact) -> str:
    """The facts of an artifact's manifest, one per line."""
    about = artifact.manifest
    rows = [
        ("step", about["name"]),
        ("kind", about["kind"]),
        ("folder", artifact.folder),
        ("size", size_text(sum(file["size"] for file in about["files"].values()))),
        ("made by", f"{about['function']} version {about['version']}"),
        ("code", f"thinkery {about['versions']['thinkery']} {about['commit'][:12]}"),
        ("took", duration(about["seconds"])),
        *((f"  {name}", value) for name, value in (about["config"] or {}).items()),
        *((f"  counted {reason}", count) for reason, count in about.get("funnel", {}).items()),
    ]
    return terminal.table(rows)


def show_recipe(name: str, as_json: bool) -> None:
    """The graph that a recipe draws, before any run."""
    from thinkery.cli.recipe import open_recipe
    from thinkery.pipeline.step import ordered

    steps = ordered(open_recipe([name]).graph())
    if as_json:
        terminal.emit({s.name: {"makes": s.kind, "inputs": {k: i.name for k, i in s.inputs.items()}} for s in steps})
    else:
        print(graph(steps))
