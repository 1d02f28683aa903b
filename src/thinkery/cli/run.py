"""`thinkery run RECIPE`: do what is not done yet; the same command continues after any stop.

Under torchrun, or as one of `--procs`, every process comes here; all but rank 0 only assist it, and all keep logs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from thinkery.cli import models, recipe, terminal
from thinkery.errors import Stopped, ThinkeryError, UsageError

if TYPE_CHECKING:
    from thinkery.pipeline.build import Planned
    from thinkery.pipeline.ranks import Ranks
    from thinkery.pipeline.step import Step
    from thinkery.recipes.expected import Expected

TOLD = ("begin", "skipped", "changed-code", "resumed", "hook-failed")
"""Events worth a line."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe, where to work, and which steps."""
    recipe.arguments(parser)
    parser.add_argument("--dir", type=Path, help="the run directory (default runs/RECIPE)")
    parser.add_argument("--seed", type=int, help="decides every draw (default 0); a run keeps its seed for life")
    parser.add_argument("--fresh", action="store_true", help="set the selected steps aside and make them again")
    parser.add_argument("--from", dest="start", metavar="STEP", help="begin with this step")
    parser.add_argument("--until", metavar="STEP", help="end with this step")
    parser.add_argument("--only", action="append", default=[], metavar="STEP", help="only this step; may be repeated")
    parser.add_argument(
        "--branch",
        metavar="RUN@STEP[:CHECKPOINT]",
        help="continue a copy of RUN from STEP with these settings: from its newest checkpoint, the one named, or the"
        ' newest "good" one, before alarms rang',
    )
    parser.add_argument("--procs", type=int, default=1, metavar="N", help="train on N processes of this machine")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines, for --write")
    parser.add_argument("--write", choices=("slurm", "kuberay"), help="print a job file for a cluster, and do nothing")
    parser.add_argument("--on", metavar="ADDRESS", help="sample on a Ray cluster: ray://host:port, auto or local")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and why, and do nothing")
    parser.add_argument("--json", action="store_true", help="machine output on stdout")


def main(args: argparse.Namespace) -> int:
    """Build the graph in the run directory, then say what there is and what to do next."""
    from thinkery.pipeline.build import assist, plan
    from thinkery.pipeline.ranks import joined

    chosen = recipe.sampling_on(args, args.on) if args.on else recipe.read_recipe(args)
    for name, least in (("procs", 1), ("nodes", 1), ("seed", 0)):
        if (given := getattr(args, name)) is not None and given < least:
            raise UsageError(f"at least {least}", where=f"--{name}", found=str(given))
    if args.write and args.fresh:
        hint = "leave it out; a new --dir begins anew, too"
        raise UsageError("a job that is started again would begin anew each time", where="--fresh", hint=hint)
    if args.write:
        print(job_file(args.write, args.nodes, args.procs), end="")
        return 0
    steps, directory = chosen.graph(), run_directory(args, chosen.name)
    selection = {"only": args.only, "start": args.start, "until": args.until, "fresh": args.fresh}
    if args.dry_run:
        with branched(args.branch, directory) as place:
            tell_plan(plan(steps, place, **selection), as_json=args.json)
        return 0
    if args.procs > 1 and "RANK" not in os.environ:
        return start_ranks(args.procs, directory)
    if "RANK" not in os.environ and on_ray(steps):
        from thinkery.launch.watched import elsewhere

        if (code := elsewhere(sys.argv[1:])) is not None:
            return code
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from thinkery.launch.logs import keep_log

        keep_log(directory, int(os.environ["RANK"]))
    with joined(os.environ, chosen.config.watchdog) as ranks:
        if ranks.rank:
            assist(steps, ranks)
            return 0
        if args.branch:
            branch_once(args.branch, directory)
        seed = seed_of_run(directory) if args.seed is None else args.seed
        try:
            carry_out(chosen, steps, directory, seed, selection, ranks)
        except Stopped as stop:
            words = [word for word in sys.argv[1:] if word != "--fresh"]  # which would set aside what is done now
            hint = shlex.join(["thinkery", *words])
            raise Stopped(stop.what, where=stop.where, hint=f"to continue: {hint}") from None
    sum_up(directory, as_json=args.json)
    return 0


def job_file(kind: str, nodes: int, procs: int) -> str:
    """This command line as a job of so many machines with so many GPUs each."""
    from thinkery.launch.jobs import WRITTEN, words_of

    return WRITTEN[kind](words_of(sys.argv[2:]), nodes, procs)


def start_ranks(procs: int, directory: Path) -> int:
    """This command line in so many processes; rank 0's exit code."""
    from thinkery.launch.local import launch

    return launch(sys.argv[1:], procs, directory)


def on_ray(steps: Mapping[str, Step]) -> bool:
    """Whether any engine samples on a Ray cluster."""
    return any(getattr(getattr(step.config, "engine", None), "ray", "") for step in steps.values())


def carry_out(
    chosen: recipe.Recipe,
    steps: Mapping[str, Step],
    directory: Path,
    seed: int,
    selection: Mapping[str, Any],
    ranks: Ranks,
) -> None:
    """Build the graph while the terminal, the sinks and the hooks of alarms follow it; EnvironmentLacks before any work
    where a step that is to train cannot hold its model."""
    from thinkery.pipeline.build import build
    from thinkery.pipeline.progress import open_progress
    from thinkery.recipes.fits import require_fitting
    from thinkery.sinks import Broadcast

    left = left_to_do(steps, directory, selection)
    require_fitting(left, ranks.count)
    known = expected_seconds(steps, directory, chosen.config.expected, ranks.count) if len(left) > 1 else {}
    with open_progress(expected=known) as progress:

        def show(row: dict[str, Any]) -> None:
            tell(row, progress.note)

        def listen(row: dict[str, Any]) -> None:
            show(row)
            broadcast.event(row)

        broadcast = Broadcast(chosen.config.sinks, chosen.config.alerts, directory, show)
        watching = {"progress": progress, "on_event": listen, "follow": broadcast.follow}
        build(steps, directory, seed=seed, recipe=chosen.record(), ranks=ranks, **watching, **selection)


def left_to_do(steps: Mapping[str, Step], directory: Path, selection: Mapping[str, Any]) -> list[Step]:
    """The steps that are to be executed; none where something is wrong, which the run itself will say."""
    from thinkery.pipeline.build import plan

    try:
        return [one.step for one in plan(steps, directory, **selection) if one.action != "done"]
    except ThinkeryError:
        return []


def expected_seconds(steps: Mapping[str, Step], directory: Path, expected: Expected, ranks: int) -> dict[str, float]:
    """What `thinkery plan` expects of each step; empty where it cannot say."""
    from thinkery.pipeline.memory import memory
    from thinkery.recipes.plan import plan as estimate
    from thinkery.recipes.probe import probe

    try:
        free = memory()[1]
        needs = estimate(steps, lambda shape: probe(shape, directory, free), expected=expected, ranks=ranks).needs
    except ThinkeryError:
        return {}  # whatever is wrong, the run itself will say
    return {need.step: need.seconds for need in needs}


def run_directory(args: argparse.Namespace, name: str) -> Path:
    """Where the run is: as told, or named after the recipe and, for a branch, the step."""
    if args.dir:
        return args.dir
    place = split_branch(args.branch)[1:] if args.branch else ()
    return models.RUNS / "-".join(part for part in (name, *place) if part)


def seed_of_run(directory: Path) -> int:
    """The seed that a run has already, which is its source's in a branch, or 0 for a new one."""
    from thinkery.pipeline.read import open_run

    return open_run(directory).run["seed"] if models.is_run(directory) else 0


def split_branch(text: str) -> tuple[Path, str, str]:
    """RUN@STEP:CHECKPOINT as its parts, of which the last may be missing."""
    run, at, place = text.rpartition("@")
    step, colon, checkpoint = place.partition(":")
    if not at or not run or not step or (colon and not checkpoint):
        hint = "--branch RUN@STEP[:CHECKPOINT], such as runs/tiny@zero or runs/tiny@zero:good"
        raise UsageError("not a branch", found=text, hint=hint)
    return Path(run), step, checkpoint


def branch_once(text: str, directory: Path) -> None:
    """Copy a run up to a step, unless `directory` is that copy already, which needs its source no more."""
    from thinkery.pipeline.branch import branch

    if not is_branch(text, directory):
        source, step, checkpoint = split_branch(text)
        branch(source, step, directory, checkpoint)


def is_branch(text: str, directory: Path) -> bool:
    """Whether a directory is the copy of a run that RUN@STEP:CHECKPOINT asks for, wherever RUN is now."""
    from thinkery.pipeline.home import origin
    from thinkery.pipeline.read import open_run

    source, step, checkpoint = split_branch(text)
    begun = open_run(directory).run.get("branched_from") if models.is_run(directory) else None
    if begun is None:
        return False
    run = open_run(source).id if models.is_run(source) else begun["run"]
    return begun == origin(run, step, checkpoint)


@contextmanager
def branched(text: str | None, directory: Path) -> Iterator[Path]:
    """The directory, or a passing copy of the run that it would begin with as a branch."""
    from thinkery.pipeline.branch import branch

    if not text or is_branch(text, directory):
        yield directory
        return
    source, step, checkpoint = split_branch(text)
    if models.is_run(directory):
        branch(source, step, directory, checkpoint)  # which says what is in the way
    near = next(place for place in directory.absolute().parents if place.exists())
    with TemporaryDirectory(prefix="dry-run-", dir=near) as folder:
        branch(source, step, Path(folder), checkpoint)
        yield Path(folder)


def tell_plan(planned: Sequence[Planned], *, as_json: bool) -> None:
    """Say what would be done with each step."""
    rows = [(one.step.name, one.action, one.why) for one in planned]
    if as_json:
        terminal.emit([{"step": name, "action": action, "why": why} for name, action, why in rows])
    else:
        print(terminal.table(rows, ("step", "action", "why")))


def tell(event: dict[str, Any], note: Callable[[str], None]) -> None:
    """One line for an event that a person wants to know of."""
    if event["kind"] in TOLD:
        note(f"{event['step']}: {event['kind']} {event.get('message', '')}".rstrip())


def sum_up(directory: Path, *, as_json: bool) -> None:
    """How much is done and how long it took, which alarms rang, the stage table where there is one, where things are,
    and the next commands that have something to work on."""
    from thinkery.cli.report import print_stages
    from thinkery.evals.findings import evaluations, stage_metrics
    from thinkery.pipeline.progress import duration
    from thinkery.pipeline.read import open_run

    run = open_run(directory)
    if as_json:
        steps = {s.name: {"status": s.status, "seconds": s.seconds, "path": s.path} for s in run.steps.values()}
        terminal.emit({"id": run.id, "dir": directory, "steps": steps, "alarms": run.alarms()})
        return
    if reports := evaluations(run):
        print_stages(stage_metrics(reports))
    done, count = [step for step in run.steps.values() if step.status == "done"], len(run.steps)
    steps_done = f"{count} steps" if len(done) == count else f"{len(done)} of {count} steps"
    print(f"\nrun {run.id} is in {directory}: {steps_done} in {duration(sum(step.seconds for step in done))}")
    for alarm in run.alarms():
        print(f"  alarm in {alarm['step'] or 'the run'}: {terminal.alarm_line(alarm)}")
    models_done = any(step.kind == "Model" for step in done)
    verbs = [*(["report"] if reports else []), "show", *(["chat"] if models_done else [])]
    print("\n".join(f"  thinkery {verb} {directory}" for verb in verbs))
