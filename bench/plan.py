"""Is a plan right? What `thinkery plan` says of a run, beside what that run then took.

    python -m bench.plan tiny --against runs/demo                         →  bench/results/plan.json, "plain"
    python -m bench.plan tiny --like /tmp/demo --against /tmp/longer      →  bench/results/plan.json, "taught"
    python -m bench.plan tiny --against runs/demo --expected              →  the recipe's [expected], as in that run

The first is the plain plan of the run's own settings, with the lengths that the recipe expects and what this machine
reaches just now: ask on the machine of the run, with as many threads and nothing else at work. The second has a
teacher, a run of the same graph on the same machine and as many threads, with other settings; steps that take less than
SHORT_S are then left out of the table, not of the sum. The third writes what the first expects: it should come from
another run than the one that is planned. Tokens and memory are compared where a run records them: in steps that train.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from bench.recipe import RESULTS, machine
from thinkery.cli.plan import count
from thinkery.cli.recipe import open_recipe
from thinkery.cli.terminal import table
from thinkery.config import Layers, check
from thinkery.pipeline.files import size_text
from thinkery.pipeline.memory import memory
from thinkery.pipeline.read import RunRecord, open_run
from thinkery.pipeline.step import Step
from thinkery.recipes.expected import Expected
from thinkery.recipes.measured import expected_of, measured, settings_of, taught
from thinkery.recipes.plan import Machine, Need, plan
from thinkery.recipes.probe import probe

SHORT_S = 5.0
BOUND = 0.25
"""How far a plan may be off."""
ANY = Machine(flops=5e10, bandwidth=1e10, latency_s=2e-6, memory=16e9, disk=1e12)
"""A machine of round numbers: only ratios of planned seconds matter."""
UNITS = {"seconds": lambda seconds: f"{seconds:.1f} s", "memory": size_text, "tokens": count}
FILE = RESULTS / "plan.json"


def main() -> None:
    """Plan a run as if it had not been done, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--like", type=Path, help="the run that teaches; without one the plan is the plain one")
    parser.add_argument("--against", type=Path, required=True, help="the run that is planned")
    parser.add_argument("--expected", action="store_true", help="print the run's own lengths, as a recipe has them")
    args = parser.parse_args()
    run = open_run(args.against)
    if args.expected:
        print(block(expected_of(run, steps_of(args.recipe, run))))
        return
    needs = taught_needs(args.recipe, args.like, run) if args.like else plain_needs(args.recipe, run)
    found = {
        "date": date.today().isoformat(), "machine": machine(), "recipe": args.recipe, "bound": BOUND,
        **comparison(needs, run),
    }  # fmt: skip
    tell(found, SHORT_S if args.like else 0.0)
    keep("taught" if args.like else "plain", args.recipe, found)


def taught_needs(recipe: str, teacher: Path, run: RunRecord) -> dict[str, Need]:
    """What each step is said to need by a plan that another run has taught."""
    known = open_run(teacher)
    old, new = (plan(steps_of(recipe, one), lambda shape: ANY) for one in (known, run))
    return {need.step: need for need in taught(new, old, known).needs}


def plain_needs(recipe: str, run: RunRecord) -> dict[str, Need]:
    """What each step is said to need by a plan from the recipe and this machine alone."""
    expected, free = open_recipe([recipe], environ={}).config.expected, memory()[1]
    made = plan(steps_of(recipe, run), lambda shape: probe(shape, run.path, free), expected=expected)
    return {need.step: need for need in made.needs}


def steps_of(recipe: str, run: RunRecord) -> dict[str, Step]:
    """The recipe's graph with the settings of a run."""
    chosen = open_recipe([recipe], environ={})
    return chosen.draw(check(type(chosen.config), Layers(values=settings_of(run))))


def block(expected: Expected) -> str:
    """What is expected, as a recipe's TOML has it."""
    lines = [
        f"{name} = {{ {', '.join(f'{step} = {value:g}' for step, value in values.items())} }}"
        for name, values in expected
    ]
    return "\n".join(["[expected]", *lines])


def comparison(needs: Mapping[str, Need], run: RunRecord) -> dict[str, Any]:
    """Every step that the run has done, as planned and as measured, their totals, and whether these hold the bound.

    Seconds and tokens are summed; of memory it is the most that a step has.
    """
    done = [name for name, step in run.steps.items() if step.status == "done" and name in needs]
    rows = [compared(needs[name], measured(run, name)) for name in done]
    totals = {}
    for name, total in (("seconds", sum), ("memory", max), ("tokens", sum)):
        known = [row[name] for row in rows if name in row]
        if known:
            totals[name] = off(*(total(one[which] for one in known) for which in ("planned", "measured")))
    return {"holds": all(abs(one["off"]) <= BOUND for one in totals.values()), "totals": totals, "steps": rows}


def tell(found: Mapping[str, Any], shortest_s: float) -> None:
    """Print steps that took a while, and the totals."""
    rows = [row for row in found["steps"] if row.get("seconds", {"measured": 0.0})["measured"] >= shortest_s]
    told = [[row["step"], *cells(row)] for row in rows] + [["all", *cells(found["totals"])]]
    print(table(told, ("step", *(f"{name}: planned, measured, off" for name in UNITS))))
    print("holds" if found["holds"] else "does not hold", f"a bound of {found['bound']:.0%}")


def cells(row: Mapping[str, Any]) -> list[str]:
    """Each quantity as text: planned, measured, and by how much the plan is off."""
    return [
        f"{text(row[name]['planned'])}, {text(row[name]['measured'])}, {row[name]['off']:+.0%}" if name in row else "-"
        for name, text in UNITS.items()
    ]


def keep(kind: str, recipe: str, found: Mapping[str, Any]) -> None:
    """Write a comparison beside the others: of plain plans one a recipe, of taught ones the last."""
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    kept[kind] = kept.get("plain", {}) | {recipe: found} if kind == "plain" else found
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(kept, indent=1) + "\n")


def compared(need: Need, was: dict[str, float]) -> dict:
    """One step, planned and measured, as far as both are known."""
    planned = {"seconds": need.seconds, "tokens": need.tokens, "memory": need.memory}
    return {"step": need.step} | {name: off(planned[name], value) for name, value in was.items() if value}


def off(planned: float, took: float) -> dict[str, float]:
    """Two numbers and by how much the first misses the second."""
    return {"planned": round(planned, 3), "measured": round(took, 3), "off": round(planned / took - 1, 4)}


if __name__ == "__main__":
    main()
