"""The paper's claims over several seeds: the embedded recipe with its controls, each seed a run of its own.

    python -m bench.claims --dir runs/claims              →  bench/results/claims.json
    python -m bench.claims --check bench/results/claims.json

`seeds` holds one report a seed. `--check` decides the claims again from the stage tables in the file. Both exit with 3
when a gated claim fails in any seed. A seed whose run is done already is read, not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.recipe import RESULTS, machine
from bench.seeds import Report, over_seeds, report_of, run_of, seconds
from thinkery import __version__
from thinkery.evals.claims import check_claims
from thinkery.evals.figures import learning_curve, standalone

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "zero.svg"


def main() -> int:
    """Run or read every seed, write the file, say what holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs/claims"), help="where the runs lie")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--check", type=Path, metavar="FILE", help="decide the claims in a file again, and run nothing")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args()
    if args.check:
        return verdict(json.loads(args.check.read_text())["seeds"])
    seeds = [result_of(args.dir / f"seed-{seed}", seed, args.settings) for seed in args.seeds]
    found = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "version": __version__,
        "command": ["python", "-m", "bench.claims", *sys.argv[1:]],
        "mean": over_seeds(seeds),
        "seeds": seeds,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "claims.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(seeds)
    return verdict(seeds)


def result_of(folder: Path, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """The report of one seed's run, which is begun or continued where it is not done."""
    record = run_of("claims", folder, seed, settings)
    found = report_of(record)
    curve = [
        {"update": row["step"], "pass@1": row["eval/exam/pass@1"]}
        for row in record.metrics("zero")
        if "eval/exam/pass@1" in row
    ]
    return {
        "seed": seed,
        **found,
        "reported": reported(found["stages"], record.metrics("zero")),
        "curve": curve,
        "seconds": seconds(record),
    }


def reported(stages: Mapping[str, Any], zero: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What is told and not gated; thoughts are followed from the update whose format first passes 95 %."""
    formed = [row["step"] for row in zero if row.get("reward/format/mean", 0) >= 0.95]
    well = [row for row in zero if formed and row["step"] >= formed[0] and "text/reflection" in row]
    found: dict[str, float] = {"update of 95 % format": formed[0] if formed else float("nan")}
    for name, metric in (("tokens of thought", "thought/length_mean"), ("self-correction", "text/reflection")):
        found |= {f"{name} {when}": fmean(row[metric] for row in rows) for when, rows in ends(well).items()}

    def accuracy(stage: str) -> float:
        return stages[stage]["pass@1"]["value"]

    return {
        **found,
        "base pass@64": stages["base-many"]["pass@64"]["value"],
        "zero minus cold start": accuracy("zero") - accuracy("cold-start"),
        **{f"{stage} on longer problems": accuracy(f"{stage}-longer") for stage in ("base", "zero", "align")},
    }


def ends(rows: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The first and the last five updates; nothing when there are none."""
    return {"then": rows[:5], "at the end": rows[-5:]} if rows else {}


def draw(seeds: Sequence[Report]) -> None:
    """The figure that made R1 famous: held-out accuracy over zero's updates, one curve a seed, the base dotted."""
    curves = {f"seed {seed['seed']}": [(p["update"], p["pass@1"]) for p in seed["curve"]] for seed in seeds}
    base = fmean(seed["stages"]["base"]["pass@1"]["value"] for seed in seeds)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(standalone(learning_curve("zero: pass@1 on held-out problems", curves, base)))


def verdict(seeds: Sequence[Report]) -> int:
    """Print every claim with its figures, decided from the stage tables; 3 when a gated one fails somewhere, else 0."""
    decided = [{claim.id: claim for claim in check_claims(seed["stages"])} for seed in seeds]
    failed = 0
    for id, claim in decided[0].items():
        holds = [found[id].holds for found in decided]
        figures = {name: fmean(found[id].figures[name] for found in decided) for name in claim.figures}
        failed += claim.gated and not all(holds)
        marks = " ".join("holds" if one else "FAILS" for one in holds)
        print(f"{id:26} {marks}   {json.dumps({name: round(value, 3) for name, value in figures.items()})}")
    for seed, found in zip(seeds, decided, strict=True):
        kept = {claim["id"]: claim["holds"] for claim in seed["claims"]}
        if kept != {id: asdict(claim)["holds"] for id, claim in found.items()}:
            print(f"seed {seed['seed']}: the claims that the run wrote down are not those of its stage table")
            failed += 1
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
