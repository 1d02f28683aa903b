"""`thinkery compare BEFORE AFTER …`: models or stages side by side, and which questions went from right to wrong."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from thinkery.cli import terminal
from thinkery.errors import UsageError

if TYPE_CHECKING:
    from thinkery.evals.compare import Change
    from thinkery.evals.metrics import Estimate


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is compared, and by which score."""
    parser.add_argument(
        "what",
        nargs="+",
        metavar="RUN[:STAGE]|DIR",
        help="a run (all its exams), a stage of one, or a folder that `thinkery eval` wrote; "
        "all are compared with the first",
    )
    parser.add_argument("--reward", default="accuracy", metavar="NAME", help="the score to compare (default accuracy)")
    parser.add_argument("--show", type=int, default=5, metavar="N", help="questions lost to print (default 5)")
    parser.add_argument("--json", action="store_true", help="machine output on stdout")


def main(args: argparse.Namespace) -> None:
    """Print the values, the paired differences, and the questions that were lost."""
    from thinkery.evals.compare import compare, open_all

    sheets = open_all(args.what, args.reward)
    if len(sheets) < 2:
        raise UsageError("one thing alone has nothing to be compared with", hint="name a second, or a run with exams")
    first, *others = sheets
    values = {name: sheet.estimate() for name, sheet in sheets.items()}
    changes = {name: compare(sheets[first], sheets[name]) for name in others}
    if args.json:
        compared = {name: {"value": values[name], **asdict(change)} for name, change in changes.items()}
        terminal.emit({"reward": args.reward, "first": {first: {"value": values[first]}}, "compared": compared})
        return
    print(terminal.table(table(values, changes), ("", args.reward, "n", f"against {first}", "n", "gained", "lost")))
    for name, change in changes.items():
        if change.other:
            words = f"{change.other} ids name other questions in {name} than in {first}: not compared"
            print(terminal.styled(words, terminal.DIM))
        for id in change.lost[: args.show]:
            was, now = sheets[first].scores[id], sheets[name].scores[id]
            words = " ".join(sheets[first].prompts[id].split())
            print(terminal.styled(f"{name} lost {id} ({was:.2g} to {now:.2g}): {words:.100}", terminal.DIM))


def table(values: Mapping[str, Estimate], changes: Mapping[str, Change]) -> list[tuple[object, ...]]:
    """A row for each: its value, the questions, and where it is not the first, what changed since the first."""
    rows: list[tuple[object, ...]] = [(name, interval(value), value["n"]) for name, value in values.items()]
    for i, name in enumerate(values):
        if name in changes:
            change = changes[name]
            difference = change.difference
            rows[i] += (interval(difference, "+"), difference["n"], len(change.gained), len(change.lost))
    return rows


def interval(estimate: Estimate, sign: str = "") -> str:
    """A value with its 95 % interval."""
    low, high = estimate["low"], estimate["high"]
    bounds = "" if low is None else f" ({low:{sign}.3f} to {high:{sign}.3f})"
    return f"{estimate['value']:{sign}.3f}{bounds}"
