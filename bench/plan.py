"""Is a plan right? What `thinkery plan --like RUN` says of another run, beside what that run then took.

    python -m bench.plan tiny --like /tmp/demo --against /tmp/longer      →  bench/results/plan.json

Both are finished runs of the same graph on the same machine and as many threads, with other settings. Steps that took
less than SHORT_S are left out of the table, not of the sum.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

from bench.recipe import RESULTS, machine
from thinkery.cli.recipe import open_recipe
from thinkery.pipeline.read import open_run
from thinkery.recipes.measured import measured, settings_of, taught
from thinkery.recipes.plan import Machine, Need, plan

SHORT_S = 5.0
BOUND = 0.25
"""How far a plan may be off."""
ANY = Machine(flops=5e10, bandwidth=1e10, latency_s=2e-6, memory=16e9, disk=1e12)
"""A machine of round numbers: only ratios of planned seconds matter."""


def main() -> None:
    """Plan the second run like the first, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--like", type=Path, required=True, help="the run that teaches")
    parser.add_argument("--against", type=Path, required=True, help="the run that is planned")
    args = parser.parse_args()
    recipe = open_recipe([args.recipe], environ={})
    known, run = open_run(args.like), open_run(args.against)
    old, new = (plan(recipe.draw(type(recipe.config)(**settings_of(one))), lambda shape: ANY) for one in (known, run))
    needs = {need.step: need for need in taught(new, old, known).needs}
    done = [name for name, step in run.steps.items() if step.status == "done" and name in needs]
    rows = [compared(needs[name], measured(run, name)) for name in done]
    planned, took = (sum(row["seconds"][which] for row in rows) for which in ("planned", "measured"))
    memory = [max(row["memory"][which] for row in rows if "memory" in row) for which in ("planned", "measured")]
    tokens = [sum(row["tokens"][which] for row in rows if "tokens" in row) for which in ("planned", "measured")]
    totals = {
        "seconds": off(planned, took),
        "memory": off(*memory),
        "tokens": off(*tokens),
    }
    for row in rows:
        if row["seconds"]["measured"] >= SHORT_S:
            seconds = row["seconds"]
            print(f"{row['step']:24} {seconds['planned']:8.1f} {seconds['measured']:8.1f} s  {seconds['off']:+.0%}")
    holds = all(abs(one["off"]) <= BOUND for one in totals.values())
    print(*(f"{name}: {one['off']:+.1%}" for name, one in totals.items()), "holds" if holds else "does not hold")
    found = {
        "date": date.today().isoformat(), "machine": machine(), "recipe": args.recipe, "bound": BOUND, "holds": holds,
        "totals": totals, "steps": rows,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "plan.json").write_text(json.dumps(found, indent=1) + "\n")


def compared(need: Need, was: dict[str, float]) -> dict:
    """One step, planned and measured, as far as both are known."""
    planned = {"seconds": need.seconds, "tokens": need.tokens, "memory": need.memory}
    return {"step": need.step} | {name: off(planned[name], value) for name, value in was.items() if value}


def off(planned: float, took: float) -> dict[str, float]:
    """Two numbers and by how much the first misses the second."""
    return {"planned": round(planned, 3), "measured": round(took, 3), "off": round(planned / took - 1, 4)}


if __name__ == "__main__":
    main()
