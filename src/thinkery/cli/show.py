"""`thinkery show`: the graph of a run or a recipe, how far each step is, and what an artifact came from; live too."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.cli import models, terminal
from thinkery.pipeline.artifact import Artifact
from thinkery.pipeline.files import size_text
from thinkery.pipeline.lock import holder
from thinkery.pipeline.progress import WINDOW, duration, headline, number

if TYPE_CHECKING:
    from thinkery.pipeline.read import RunRecord, StepRecord

PAUSE_S = 1.0
"""Seconds between two looks at a run that is watched."""
ALARMS = 5
"""How many of the last alarms are shown while watching."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to show."""
    parser.add_argument(
        "what",
        nargs="?",
        default="",
        metavar="RUN[:STEP]|RECIPE",
        help="default: the latest run; with a step, its lineage",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="machine output on stdout")
    form.add_argument("--watch", action="store_true", help="follow a run until it ends or you press Ctrl-C")


def main(args: argparse.Namespace) -> None:
    """Show a run, one artifact of it, or a recipe that has not run."""
    from thinkery.pipeline.read import open_run

    run, _, step = args.what.rpartition(":")
    if args.watch:
        watch(Path(args.what) if args.what else models.latest_run())
    elif not args.what:
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
    print(overview(run, terminal.styled(run.id, terminal.BOLD)))
    print(terminal.styled(f"{len(run.attempts)} attempts; thinkery show {run.path}:STEP for one step", terminal.DIM))


def overview(run: RunRecord, name: str, width: int | None = None) -> str:
    """The graph with the status of each step, under a line that says which run it is."""
    from thinkery.pipeline.read import graph

    seed, begun = run.run["seed"], time.strftime("%Y-%m-%d %H:%M", time.localtime(run.run["created"]))
    notes = {name: status(step) for name, step in run.steps.items()}
    return f"run {name} in {run.path}, seed {seed}, begun {begun}\n{graph(run.steps.values(), notes, width)}"


def watch(directory: Path) -> None:
    """Show a run until nobody works on it: in place on a terminal, which it fits, elsewhere only the lines that are
    new."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from thinkery.pipeline.read import open_run

    run = open_run(directory)  # says at once where there is none
    console = Console()
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as screen:
        shown = ""
        while True:
            live = holder(directory) is not None
            width, height = console.size
            now = fitted(run, width, height if live else None) if console.is_terminal else picture(run)
            if now != shown and console.is_terminal:
                screen.update(Text(now, no_wrap=True, overflow="ellipsis"), refresh=True)
            for line in now.splitlines() if not console.is_terminal else ():
                if line not in shown.splitlines():
                    print(line, flush=True)
            if not live:
                break
            shown = now
            time.sleep(PAUSE_S)
            run = open_run(directory)


def picture(run: RunRecord) -> str:
    """A run as it is: its graph, the pace and the numbers of the step that is running, and the last alarms."""
    return "\n".join([overview(run, run.id), *pulses(run), *last_alarms(run)])


def fitted(run: RunRecord, width: int, height: int | None) -> str:
    """The same for a terminal: what changes first, then the steps, where `height` lines are too few those around the
    one that is running. Without a height all of it."""
    head, *steps = overview(run, run.id, width).splitlines()
    top = [head, *(part for line in pulses(run) for part in wrapped(line, width))]
    alarms = [wrapped(line, width) for line in last_alarms(run)]
    if height is None:
        return "\n".join([*top, *(part for alarm in alarms for part in alarm), *steps])
    rows = height - 1 - len(top)
    while len(alarms) > 1 and sum(map(len, alarms)) > rows // 2:
        del alarms[0]
    told = [part for alarm in alarms for part in alarm]
    stages = [step.status for step in run.steps.values()]
    place = stages.index("running") if "running" in stages else stages.count("done") - 1
    return "\n".join([*top, *told, *folded(steps, max(3, rows - len(told)), place)])


def folded(lines: Sequence[str], rows: int, place: int) -> list[str]:
    """At most so many lines, those around `place`, and how many others there are above and below."""
    if len(lines) <= rows:
        return list(lines)
    first = min(max(0, place - rows // 2), len(lines) - rows)
    above, below = first + 1, len(lines) - first - rows + 1  # either line takes the place of one
    parts = list(lines[first : first + rows])
    if first:
        parts[0] = f"… {above} above"
    if below > 1:
        parts[-1] = f"… {below} below"
    return parts


def wrapped(line: str, width: int) -> list[str]:
    """A line in parts that fit."""
    return textwrap.wrap(line, width, subsequent_indent="  ")


def pulses(run: RunRecord) -> list[str]:
    """The pulse of every step that is running."""
    return [pulse(run, step) for step in run.steps.values() if step.status == "running"]


def last_alarms(run: RunRecord) -> list[str]:
    """The last few alarms, one line each."""
    return [f"alarm in {row['step'] or 'the run'}: {terminal.alarm_line(row)}" for row in run.alarms()[-ALARMS:]]


def pulse(run: RunRecord, step: StepRecord) -> str:
    """One line about a running step: how far, the numbers worth a glance, seconds a step, the time left."""
    rows = run.metrics(step.name)[-WINDOW:]
    latest = rows[-1] if rows else {}
    numbers = headline(latest) or headline(latest, {"loss": "optim/loss"})
    parts = [
        f"{step.name}  step {step.done}/{step.total}",
        *(f"{name} {number(value)}" for name, value in numbers.items()),
    ]
    if len(rows) > 1 and rows[-1]["step"] > rows[0]["step"]:
        pace = (rows[-1]["at"] - rows[0]["at"]) / (rows[-1]["step"] - rows[0]["step"])
        parts += [f"{pace:.2g} s/it", f"ETA {duration(pace * (step.total - step.done))}"]
    return "  ".join(parts)


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
    from thinkery.pipeline.read import graph
    from thinkery.pipeline.step import ordered

    steps = ordered(open_recipe([name]).graph())
    if as_json:
        terminal.emit({s.name: {"makes": s.kind, "inputs": {k: i.name for k, i in s.inputs.items()}} for s in steps})
    else:
        print(graph(steps))
