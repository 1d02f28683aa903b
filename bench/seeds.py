"""A shipped recipe over several seeds, each a run of its own: what every stage knows, and what it gained.

    python -m bench.seeds smollm2-puzzles --dir runs/puzzles      →  bench/results/smollm2-puzzles-seeds.json

A seed draws the practised and the examined questions as well as the samples, so that an interval over seeds holds all
of these. A gain is a stage's metric less the `base`'s on the same questions. A seed whose run is done already is read,
not run again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from bench.recipe import curves, machine, write
from thinkery import __version__
from thinkery.evals.metrics import Estimate, mean_estimate
from thinkery.pipeline.read import RunRecord, open_run

Report = Mapping[str, Any]


def main() -> None:
    """Run or read every seed, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--dir", type=Path, required=True, help="where the runs lie")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args()
    seeds = []
    for seed in args.seeds:
        record = run_of(args.recipe, args.dir / f"seed-{seed}", seed, args.settings)
        seeds.append({"seed": seed, **report_of(record), "curves": curves(record), "seconds": seconds(record)})
    write(f"{args.recipe}-seeds", {
        "date": date.today().isoformat(),
        "machine": machine(),
        "version": __version__,
        "command": ["python", "-m", "bench.seeds", args.recipe, *args.settings],
        "wall_s": round(sum(sum(seed["seconds"].values()) for seed in seeds), 1),
        "mean": over_seeds(seeds),
        "gains": gains(seeds),
        "seeds": seeds,
    })  # fmt: skip


def run_of(recipe: str, folder: Path, seed: int, settings: Sequence[str]) -> RunRecord:
    """The finished run of one seed, which is begun or continued where it is not done."""
    command = [sys.executable, "-m", "thinkery.cli", "run", recipe, "--dir", str(folder), "--seed", str(seed)]
    subprocess.run([*command, *settings], check=True)
    return open_run(folder)


def report_of(record: RunRecord) -> dict[str, Any]:
    """The stage table and the claims of a run's report."""
    found = next(a.data for a in record.artifacts.values() if a.name == "report")
    return {"stages": found["stages"], "claims": found["claims"]}


def seconds(record: RunRecord) -> dict[str, float]:
    """What each step took."""
    return {step.name: step.seconds for step in record.steps.values()}


def over_seeds(seeds: Sequence[Report]) -> dict[str, dict[str, Estimate]]:
    """Each metric's mean over the seeds with Student's t interval between them."""
    return {
        stage: {metric: mean_estimate([seed["stages"][stage][metric]["value"] for seed in seeds]) for metric in metrics}
        for stage, metrics in seeds[0]["stages"].items()
    }


def gains(seeds: Sequence[Report], base: str = "base") -> dict[str, dict[str, Estimate]]:
    """The same of what each stage's pass@1, and that of each part of the exam, is above the base's."""
    known = [metric for metric in seeds[0]["stages"][base] if metric.startswith("pass@1")]

    def gained(seed: Report, stage: str, metric: str) -> float:
        return seed["stages"][stage][metric]["value"] - seed["stages"][base][metric]["value"]

    return {
        stage: {metric: mean_estimate([gained(seed, stage, metric) for seed in seeds]) for metric in known}
        for stage, metrics in seeds[0]["stages"].items()
        if stage != base and all(metric in metrics for metric in known)
    }


if __name__ == "__main__":
    main()
