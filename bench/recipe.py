"""Run a shipped recipe from nothing and write down what it took and what came out.

    python -m bench.recipe tiny --dir /tmp/demo      →  bench/results/tiny.json, docs/images/tiny.svg
    python -m bench.recipe tiny --dir /tmp/two --nodes --against /tmp/demo      →  bench/results/tiny-nodes.json
    python -m bench.recipe smollm2-puzzles --as puzzles-narrow --dir DIR train.grpo.policy.weights=bfloat16
    python -m bench.recipe smollm2 --dir runs/night --continued     once more, where it was stopped

With `--nodes`, as root, it runs on a Ray cluster of two nodes (`bench/nodes.py`): it learns on one, and the other
samples; with `--against RUN` every model must be that run's, bit for bit. With `--continued` a run goes on that was
stopped: its time is then that of its steps, and its memory the most that a training step recorded.
The numbers are of one run on the machine named in the file: wall time, peak memory of the process and its
children, seconds of each step and of each phase of an update, mean reward and held-out accuracy by update, the stage
table, what each stage gained over the base on the same questions, and the claims. The figure shows the curves of the
stages that watched held-out accuracy; there is none where no stage did.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean

from thinkery import __version__
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.read import RunRecord, open_run
from thinkery.recipes.measured import measured

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
CURVES = {"reward": "reward/mean", "held_out": "eval/exam/pass@1"}
"""What is kept by update, and the metric that it is."""
SMOOTHED = 5
"""Updates whose rewards make one point of the figure."""

Points = list[tuple[int, float]]
"""(update, value) in order."""


def main() -> None:
    """Run the recipe in an empty folder, then read its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--dir", type=Path, required=True, help="an empty or missing folder")
    parser.add_argument("--continued", action="store_true", help="go on with the run in that folder")
    parser.add_argument("--nodes", action="store_true", help="on a Ray cluster of two nodes")
    parser.add_argument("--against", type=Path, metavar="RUN", help="a finished run whose models must come out again")
    parser.add_argument("--as", dest="named", metavar="NAME", help="the name of the result, where settings differ")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args()
    if not args.continued and args.dir.exists() and any(args.dir.iterdir()):
        parser.error(f"{args.dir} is not empty; --continued goes on with the run in it")
    command = [sys.executable, "-m", "thinkery.cli", "run", args.recipe, "--dir", str(args.dir), *args.settings]
    seconds = run_on_nodes(command) if args.nodes else run_here(command)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    record = open_run(args.dir)
    if args.continued:
        seconds = sum(step.seconds for step in record.steps.values())
        peak = max(measured(record, name)["memory"] for name in record.steps)
    report = next(a.data for a in record.artifacts.values() if a.name == "report")
    made, expected = models(record), models(open_run(args.against)) if args.against else {}
    other = [step for step, content in expected.items() if made.get(step) != content]
    name = args.named or (f"{args.recipe}-nodes" if args.nodes else args.recipe)
    drawn = curves(record)
    if not args.nodes and (svg := figure(args.recipe, drawn)):
        (IMAGES / f"{name}.svg").write_text(svg)
    write(name, {
        "date": date.today().isoformat(),
        "machine": machine(),
        "version": __version__,
        "command": ["thinkery", "run", args.recipe, *(["--on", "NODE"] if args.nodes else []), *args.settings],
        "attempts": len(record.attempts),
        "wall_s": round(seconds, 1),
        "peak_memory_gb": round(peak / 1e9, 2),
        "seconds": {step.name: step.seconds for step in record.steps.values()},
        "phases": phases(record),
        "curves": drawn,
        "stages": report["stages"],
        "differences": report["differences"],
        "claims": report["claims"],
        "models": made,
        **({"as_of_one_process": sorted(set(made) - set(other))} if args.against else {}),
    })  # fmt: skip
    if other:
        sys.exit(f"not the models of {args.against}: {', '.join(other)}")


def models(record: RunRecord) -> dict[str, str]:
    """A hash over the files of every model that the run has made or fetched."""
    return {name: one.manifest["content"] for name, one in record.artifacts.items() if isinstance(one, Model)}


def run_here(command: Sequence[str]) -> float:
    """Run a command; returns its seconds."""
    began = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - began


def run_on_nodes(command: Sequence[str]) -> float:
    """The same on the first of two nodes, with its engines on the second."""
    from bench.nodes import PORT, open_cluster

    with open_cluster() as (head, _):
        began = time.monotonic()
        running = head.popen([*command, "--on", f"{head.address}:{PORT}"])
        if code := running.wait():
            raise subprocess.CalledProcessError(code, command)
        return time.monotonic() - began


def curves(record: RunRecord) -> dict[str, dict[str, Points]]:
    """Mean reward and accuracy on held-out problems by update, of every step that has rewards; 0 is the start."""
    found = {}
    for name in record.steps:
        rows = sorted(record.metrics(name), key=lambda row: row["step"])
        points = {
            curve: [(row["step"], round(row[metric], 4)) for row in rows if row.get(metric) is not None]
            for curve, metric in CURVES.items()
        }
        if points["reward"]:
            found[name] = points
    return found


def figure(recipe: str, found: Mapping[str, Mapping[str, Points]]) -> str | None:
    """The curves of all steps that watched held-out accuracy, as an SVG file; None where no step did."""
    from thinkery.evals.figures import learning_curve, standalone  # matplotlib, which other benches do without

    watched = {name: one for name, one in found.items() if one["held_out"]}
    if not watched:
        return None
    lines = {}
    for name, one in watched.items():
        lines[f"{name}: held-out accuracy"] = one["held_out"]
        lines[f"{name}: mean reward"] = smoothed(one["reward"])
    return standalone(learning_curve(recipe, lines))


def smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Means of SMOOTHED neighbours, each at the middle of its updates."""
    windows = (points[at : at + SMOOTHED] for at in range(len(points) - SMOOTHED + 1))
    return [(fmean(x for x, _ in window), fmean(y for _, y in window)) for window in windows]


def phases(record: RunRecord) -> dict[str, dict[str, float]]:
    """Mean seconds of an update by phase, for the steps that sample; `reward` is judging, beside the sampling."""
    found = {}
    for name in record.steps:
        rows = [row for row in record.metrics(name) if "time/rollout" in row]
        names = sorted({key for row in rows for key in row if key.startswith("time/")})
        if rows:
            found[name] = {key[5:]: round(fmean(row.get(key, 0.0) for row in rows), 3) for key in names}
    return found


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
    }


def write(name: str, found: dict[str, object]) -> None:
    """Keep the result beside the others."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{RESULTS / name}.json: {found['wall_s']} s")


if __name__ == "__main__":
    main()
