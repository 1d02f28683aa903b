"""`thinkery plan RECIPE`: what the recipe needs on this machine, before it starts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.cli import models, recipe, terminal
from thinkery.errors import ConfigError, UsageError
from thinkery.pipeline.files import size_text
from thinkery.pipeline.progress import duration

if TYPE_CHECKING:
    from thinkery.model.transformer import Shape
    from thinkery.pipeline.read import RunRecord
    from thinkery.pipeline.step import Step
    from thinkery.recipes.cluster import Estimate, Gpu
    from thinkery.recipes.expected import Expected
    from thinkery.recipes.plan import Machine, Need


def arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe, where it would run, and the one assumption that matters."""
    recipe.arguments(parser)
    parser.add_argument("--dir", type=Path, default=models.RUNS, help="where the run would be written (default runs)")
    parser.add_argument(
        "--fill", type=float, default=0.5,
        help="mean completion of steps of which the recipe expects nothing, as a share of the longest allowed "
        "(default 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--lengths", type=Path, metavar="RUN", help="a run of the same graph anywhere: lengths and filters as there"
    )
    parser.add_argument(
        "--like", type=Path, metavar="RUN", help="a run of the same graph on this machine: lengths and speed as there"
    )
    parser.add_argument("--procs", type=int, default=1, metavar="N", help="train on N processes of this machine")
    parser.add_argument("--cluster", action="store_true", help="RL on 8 to 1,024 GPUs instead, by simulation")
    parser.add_argument(
        "--gpu", action="append", default=[], metavar="RATE=NUMBER", help="another rate of a GPU, such as flops=4e14"
    )
    parser.add_argument("--json", action="store_true", help="machine output on stdout")


def main(args: argparse.Namespace) -> None:
    """Print the needs of every step, their sum, and what to beware of."""
    from thinkery.pipeline.memory import memory
    from thinkery.recipes.measured import expected_of, taught
    from thinkery.recipes.plan import plan, size_of
    from thinkery.recipes.probe import probe

    chosen, (_, free) = recipe.read_recipe(args), memory()
    require_sense(args)
    steps, expected = chosen.graph(), chosen.config.expected
    if args.lengths:
        expected = expected_of(*earlier(chosen, args.lengths)).over(expected)
    if args.cluster:
        tell_clusters(steps, expected, rates(args.gpu), args)
        return
    known: dict[tuple[int, ...], Machine] = {}

    def machine(shape: Shape) -> Machine:
        size = size_of(shape)
        known[size] = known.get(size) or probe(shape, args.dir, free)
        return known[size]

    how = {"expected": expected, "fill": args.fill, "ranks": args.procs}
    made = plan(steps, machine, **how)
    if args.like:
        run, drawn = earlier(chosen, args.like)
        made = taught(made, plan(drawn, machine, **how), run)
    if args.json:
        terminal.emit({**asdict(made), "memory": made.memory, "seconds": made.seconds, "disk": made.disk})
        return
    print(terminal.table(map(row, made.needs), ("step", "work", "model", "tokens", "memory", "time", "disk")))
    print(f"\nabout {duration(made.seconds)}, up to {size_text(made.memory)} of memory, {size_text(made.disk)} of disk")
    print(f"RL fits models of up to {count(made.largest)} parameters into the {size_text(free)} of memory free here")
    print(assumption(args, [need.step for need in made.needs if "sampling" in need.what], expected))
    for warning in made.warnings:
        print(f"warning: {warning}")


def require_sense(args: argparse.Namespace) -> None:
    """Raise UsageError for options that mean nothing, alone or together."""
    if not 0 < args.fill <= 1:
        raise UsageError("a share is above 0 and at most 1", where="--fill", found=str(args.fill))
    if args.procs < 1:
        raise UsageError("at least one process", where="--procs", found=str(args.procs))
    if args.cluster and (args.like or args.procs > 1):
        hint = "--lengths RUN brings a run's lengths; GPUs take the place of ranks"
        raise UsageError("--like and --procs are of this machine, --cluster is of others", hint=hint)


def earlier(chosen: recipe.Recipe, path: Path) -> tuple[RunRecord, dict[str, Step]]:
    """A run and its steps, drawn as the recipe's graph; UsageError where its settings are not of this graph."""
    from thinkery import config
    from thinkery.pipeline.read import open_run
    from thinkery.recipes.measured import settings_of

    run = open_run(path)
    try:
        return run, chosen.draw(config.check(type(chosen.config), config.Layers(values=settings_of(run))))
    except ConfigError as problem:
        hint = f"a run of {chosen.name} by this version"
        raise UsageError(f"not a run of this graph: {problem}", where=str(path), hint=hint) from problem


def tell_clusters(steps: Mapping[str, Step], expected: Expected, gpu: Gpu, args: argparse.Namespace) -> None:
    """Print what every step of RL would take on clusters of each size."""
    from thinkery.recipes.cluster import estimates

    found = estimates(steps, gpu, args.fill, expected)
    if args.json:
        terminal.emit(
            {"gpu": asdict(gpu), "steps": {name: [asdict(one) for one in all] for name, all in found.items()}}
        )
        return
    head = ("GPUs", "update", "tokens/s", "used", "memory", "hours", "cost", "limit")
    for name, sizes in found.items():
        print(f"{name}\n{terminal.table(map(cluster_row, sizes), head)}\n")
    print("GPU: " + ", ".join(f"{name} {value:g}" for name, value in asdict(gpu).items()))
    print("rates are assumed, not measured;", assumption(args, list(found), expected))


def cluster_row(one: Estimate) -> list[str]:
    """One size of cluster, as text; of one that the model does not fit, the memory alone."""
    if not one.fits:
        return [str(one.gpus), "-", "-", "-", size_text(one.memory), "-", "-", one.limit]
    sizes = (count(one.tokens_per_s), f"{one.utilisation:.0%}", size_text(one.memory))
    return [str(one.gpus), duration(one.update_s), *sizes, f"{one.hours:.3g}", f"{one.cost:.3g}", one.limit]


def rates(words: list[str]) -> Gpu:
    """A GPU with the rates that RATE=NUMBER words change; UsageError where a word is none."""
    from thinkery.recipes.cluster import Gpu

    known = {field.name for field in fields(Gpu)}
    changed = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            changed[name] = float(number)
        except ValueError:
            raise UsageError("not a rate", where="--gpu", found=word, hint="such as flops=4e14") from None
        if not 0 < changed[name] < math.inf:
            raise UsageError("not a rate", where="--gpu", found=word, hint="such as flops=4e14")
        if name not in known:
            raise UsageError("no such rate", where="--gpu", found=name, hint=f"one of {', '.join(sorted(known))}")
    return Gpu(**changed)


def assumption(args: argparse.Namespace, sampling: Sequence[str], expected: Expected) -> str:
    """What the numbers of these steps rest on."""
    if args.like:
        return f"lengths and speed are those of {args.like}"
    told = f"lengths are those of {args.lengths}" if args.lengths else "lengths are those that the recipe expects"
    assumed = [step for step in sampling if step not in expected.tokens]
    if not assumed:
        return told
    share = f"taken as {args.fill:.0%} of the longest allowed"
    if len(assumed) == len(sampling):
        return f"completions are {share}; times are right within a factor of three"
    return f"{told}, but those of {', '.join(assumed)} are {share}"


def row(need: Need) -> list[str]:
    """What one step needs, as text."""
    if not need.parameters:
        return [need.step, need.what]
    sizes = (count(need.parameters), count(need.tokens), size_text(need.memory))
    return [need.step, need.what, *sizes, duration(need.seconds), size_text(need.disk)]


def count(number: float) -> str:
    """A number as 1.2M or 3.4B; nothing for none."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}" if number else "-"
