"""Run a graph of steps in a run directory: what is done is skipped, what is begun continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from thinkery.errors import DiskFull, HashMismatch, RunFailed, Stopped, UsageError
from thinkery.pipeline.artifact import Artifact, load_artifact
from thinkery.pipeline.files import read_json, write_json
from thinkery.pipeline.home import ABOUT, MANIFEST, Home, find_artifact, finish_folder, partial_folder, step_folder
from thinkery.pipeline.interrupts import Interrupts
from thinkery.pipeline.lock import locked
from thinkery.pipeline.memory import give_back
from thinkery.pipeline.progress import Progress
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import Step, counted_settings, ordered, suggestion

Listener = Callable[[dict[str, Any]], None]
Follow = Callable[[Run], AbstractContextManager[Callable[[Mapping[str, Any]], None] | None]]
"""Opened for each step that is executed: what it gives is handed the step's rows of metrics."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What `build` would do with a step: "done", "resume" or "run", and why."""

    step: Step
    action: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A step that rank 0 begins and asks the other ranks to execute with it."""

    step: str
    folder: Path
    run: Mapping[str, Any]
    """What their `Run` has in common with rank 0's."""
    inputs: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is told how a step goes, besides the record."""

    progress: Progress | None
    follow: Follow


def build(
    steps: Mapping[str, Step],
    dir: Path,
    *,
    seed: int = 0,
    only: Sequence[str] = (),
    start: str | None = None,
    until: str | None = None,
    fresh: bool = False,
    recipe: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    on_event: Listener | None = None,
    follow: Follow = lambda run: nullcontext(),
    ranks: Ranks = ALONE,
) -> dict[str, Artifact]:
    """Make what is not made yet; returns every artifact there is at the end, by step name.

    `only`, `start` and `until` select among the steps in the order listed; `fresh` sets the selected ones aside first
    (to `attempts/N/`) and makes them again. `recipe` is kept as `recipe.json`. `on_event` gets each event's row,
    what `follow` gives each row of metrics. Of several `ranks` this one is rank 0; the others call `assist`.

    Raises WiringError and UsageError before any work, Busy when another process has the directory, HashMismatch when
    a done step's bytes have changed, Stopped after a first Ctrl-C or SIGTERM, and whatever a stage raises. DiskFull has
    exit code 75 where this attempt had got on, so that a job queue tries again, but not for ever.
    """
    order = ordered(steps)
    chosen = select(order, only, start, until)
    with locked(dir), Interrupts() as interrupts:
        home = Home(dir, seed, order, on_event)
        if recipe is not None:
            write_json(dir / "recipe.json", recipe)
        home.events.add("attempt", selected=[s.name for s in chosen])
        try:
            made = _prepare(home, order, chosen, fresh)
            _execute_all(home, chosen, made, interrupts, Audience(progress, follow), ranks)
        except BaseException as error:
            with suppress(DiskFull):
                _end_badly(home, error)
            if isinstance(error, Stopped):
                ranks.tell(None)
            if isinstance(error, DiskFull) and home.events.kept:
                raise error.resumable() from error.__cause__
            raise
        ranks.tell(None)
        home.events.add("done")
        home.end_attempt("done")
    return made


def assist(steps: Mapping[str, Step], ranks: Ranks) -> None:
    """What every rank but the first does: execute with it the steps that it assigns, until there are no more.

    Raises what a stage raises, and RankLost where rank 0 ends otherwise than by being done or stopped.
    """
    with Interrupts() as interrupts:
        while (given := ranks.tell(cast(Assignment | None, None))) is not None:
            run = Run(given.folder, given.step, ranks=ranks, **given.run)
            interrupts.watch(run)
            inputs = {name: load_artifact(folder) for name, folder in given.inputs.items()}
            with suppress(Stopped), ranks.together():
                steps[given.step].execute(run, inputs)
            give_back()


def plan(
    steps: Mapping[str, Step],
    dir: Path,
    *,
    only: Sequence[str] = (),
    start: str | None = None,
    until: str | None = None,
    fresh: bool = False,
) -> list[Planned]:
    """What `build` with the same arguments would do, step by step; touches nothing."""
    order = ordered(steps)
    chosen = select(order, only, start, until)
    made = {s.name: a for s in order if (a := find_artifact(dir, s)) and not (fresh and s in chosen)}
    _require_inputs(chosen, made)
    return [_planned(step, dir, made, fresh) for step in chosen]


def select(order: Sequence[Step], only: Sequence[str], start: str | None, until: str | None) -> list[Step]:
    """The steps named in `only` (all, when it is empty) from `start` to `until`, both included, in the order listed."""
    names = [step.name for step in order]
    for name in (*only, start, until):
        if name is not None and name not in names:
            raise UsageError(f"there is no step {name!r}", hint=suggestion(name, names))
    first = names.index(start) if start else 0
    last = names.index(until) if until else len(names) - 1
    if first > last:
        raise UsageError(f"step {start!r} comes after step {until!r}", found=", ".join(names))
    if not (chosen := [step for step in order[first : last + 1] if not only or step.name in only]):
        raise UsageError(
            "no step is selected", found=f"only {', '.join(only)}, of {', '.join(names[first : last + 1])}"
        )
    return chosen


def _prepare(home: Home, order: Sequence[Step], chosen: Sequence[Step], fresh: bool) -> dict[str, Artifact]:
    """The artifacts that are there, complete, verified and with every input of what will run."""
    for step in order:
        if home.artifact(step):
            finish_folder(partial_folder(home.dir, step), step_folder(home.dir, step))
    again = {step.name for step in chosen} if fresh else set()
    made = {s.name: a for s in order if s.name not in again and (a := home.artifact(s))}
    _require_inputs(chosen, made)
    for artifact in made.values():
        artifact.verify()
        _warn_of_changed_code(home, artifact)
    for step in chosen if fresh else ():
        home.set_aside(step)
    return made


def _end_badly(home: Home, error: BaseException) -> None:
    """Note why the attempt ended; changed bytes are an alarm too, so that whoever is called on alarms hears of them."""
    if isinstance(error, HashMismatch):
        home.events.add("alarm", alarm="hash", message=f"{error.where}: {error.what}", setting="", advice=error.hint)
    home.events.add("failed", error=type(error).__name__, message=str(error))
    home.end_attempt("stopped" if isinstance(error, Stopped) else type(error).__name__)


def _require_inputs(chosen: Sequence[Step], made: Mapping[str, Artifact]) -> None:
    """Every input of a step that will run must be made, or come before it."""
    coming = set(made)
    for step in chosen:
        for name, read in step.inputs.items():
            if step.name not in made and read.name not in coming:
                what = f"input {name!r} is step {read.name!r}, which is neither done nor selected"
                raise UsageError(what, where=f"step {step.name!r}", hint=f"--from {read.name}")
        coming.add(step.name)


def _warn_of_changed_code(home: Home, artifact: Artifact) -> None:
    """The key does not read code; say when the code that made an artifact may be another."""
    then, now = _code(artifact.manifest), _code(home.code)
    if then != now:
        version = artifact.manifest["version"]
        message = f"made by thinkery {then}, this is {now}; kept, since the stage's version is still {version}"
        home.events.add(
            "changed-code", artifact.name, artifact.key, message=message, hint=f"--fresh --only {artifact.name}"
        )


def _code(made: Mapping[str, Any]) -> str:
    return f"{made['versions']['thinkery']} {made['commit']}".strip()


def _execute_all(
    home: Home,
    chosen: Sequence[Step],
    made: dict[str, Artifact],
    interrupts: Interrupts,
    audience: Audience,
    ranks: Ranks,
) -> None:
    for number, step in enumerate(chosen, 1):
        if step.name in made and not _changed_inputs(step, made):
            home.events.add("skipped", step.name, step.key)
            continue
        if interrupts.stopping:
            raise Stopped("stopped on request", where=f"before step {step.name!r}", hint="the same command continues")
        if audience.progress:
            later = [one.name for one in chosen[number:] if one.name not in made]
            audience.progress.stage(step.name, number, len(chosen), later)
        if step.name in made:
            home.events.add("stale", step.name, step.key, inputs=_changed_inputs(step, made))
            home.set_aside(step)
        made[step.name] = _execute(home, step, made, interrupts, audience, ranks if step.on_all_ranks else ALONE)


def _changed_inputs(step: Step, made: Mapping[str, Artifact]) -> list[str]:
    """The inputs whose content is no longer what a done step has read, though their keys are the same."""
    read = made[step.name].manifest["inputs"]
    now = {name: made[one.name].manifest["content"] for name, one in step.inputs.items() if one.name in made}
    return [name for name in now if read[name]["content"] != now[name]]


def _execute(
    home: Home,
    step: Step,
    made: Mapping[str, Artifact],
    interrupts: Interrupts,
    audience: Audience,
    ranks: Ranks,
) -> Artifact:
    inputs = {name: made[read.name] for name, read in step.inputs.items()}
    folder, about = home.open_folder(step, inputs)
    common = {"seed": home.run["seed"], "id": home.id, "root": home.dir, "attempt": home.attempt, "about": about}
    run = Run(folder, step.name, **common, events=home.events, progress=audience.progress, ranks=ranks)
    ranks.tell(Assignment(step.name, folder, common, {name: one.path for name, one in inputs.items()}))
    interrupts.watch(run)
    home.events.add("begin", step.name, step.key)
    with audience.follow(run) as run.on_metrics, ranks.together():
        artifact = step.execute(run, inputs)
    give_back()
    if not isinstance(artifact, step.makes):
        what = f"{step.function.__name__} promised a {step.kind} and returned {type(artifact).__name__}"
        raise RunFailed(what, where=f"step {step.name!r}")
    sealed = home.seal(step, artifact, run.finished())
    home.events.kept = True
    home.events.add("end", step.name, step.key, seconds=sealed.manifest["seconds"], content=sealed.manifest["content"])
    return sealed


def _planned(step: Step, dir: Path, made: Mapping[str, Artifact], fresh: bool) -> Planned:
    if step.name in made:
        changed = _changed_inputs(step, made)
        return Planned(step, "run", f"changed content: {', '.join(changed)}") if changed else Planned(step, "done")
    if fresh:
        return Planned(step, "run", "fresh")
    if partial_folder(dir, step).exists() or (dir / "steps" / f"{step.name}.branch").exists():
        return Planned(step, "resume")
    return Planned(step, "run", _why(step, dir))


def _why(step: Step, dir: Path) -> str:
    """What is different from the last time a step of this name ran."""
    notes = [p for name in (MANIFEST, ABOUT) for p in dir.glob(f"steps/{step.name}-????????*/{name}")]
    notes.sort(key=lambda path: path.stat().st_mtime)
    before = [note for p in notes if (note := read_json(p))["name"] == step.name]
    if not before:
        return "new"
    last, now = before[-1], step.describe()
    changes = [f"{k} {last[k]} → {now[k]}" for k in ("function", "version") if last[k] != now[k]]
    changes += _differences(last["config"], counted_settings(step.config))
    inputs = {name: read.key for name, read in step.inputs.items()}
    changes += [f"input {n}" for n in inputs if last["inputs"].get(n, {}).get("key") != inputs[n]]
    return "changed: " + ", ".join(changes or ["settings"])


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    """The settings that differ, of those that count now."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [d for k in now for d in _differences(before.get(k), now[k], f"{path}.{k}" if path else k)]
    return [] if before == now else [f"{path} {before} → {now}"]
