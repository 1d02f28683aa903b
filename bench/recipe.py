"""Run a shipped recipe from nothing and write down what it took and what came out.

    python -m bench.recipe tiny --dir /tmp/demo      →  bench/results/tiny.json

The numbers are of one run on the machine named in the file: wall time, peak memory of the process and its
children, seconds of each step and of each phase of an update, the stage table, what each stage gained over the base on
the same questions, and the claims.
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
from datetime import date
from pathlib import Path
from statistics import fmean

from thinkery import __version__
from thinkery.pipeline.read import RunRecord, open_run

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the recipe in an empty folder, then read its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--dir", type=Path, required=True, help="an empty or missing folder")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args()
    if args.dir.exists() and any(args.dir.iterdir()):
        parser.error(f"{args.dir} is not empty; the time of a continued run means nothing")
    command = [sys.executable, "-m", "thinkery.cli", "run", args.recipe, "--dir", str(args.dir), *args.settings]
    began = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    record = open_run(args.dir)
    report = next(a.data for a in record.artifacts.values() if a.name == "report")
    write(args.recipe, {
        "date": date.today().isoformat(),
        "machine": machine(),
        "version": __version__,
        "command": ["thinkery", "run", args.recipe, *args.settings],
        "wall_s": round(seconds, 1),
        "peak_memory_gb": round(peak / 1e9, 2),
        "seconds": {step.name: step.seconds for step in record.steps.values()},
        "phases": phases(record),
        "stages": report["stages"],
        "differences": report["differences"],
        "claims": report["claims"],
    })  # fmt: skip


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
