"""What each choice in zero is worth: the embedded recipe's first stage with one thing changed at a time.

    python -m bench.ablations --dir runs/ablations              →  bench/results/ablations.json
    python -m bench.ablations --dir runs/ablations ppo rloo     (these alone; the others keep what the file has)

Every variant trains on the same number of samples (24 x 16 an update, 60 updates) from the same base with the same
seed, and sits the exam of 400 held-out problems. One seed: differences inside the intervals are noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from bench.recipe import RESULTS, machine
from thinkery import __version__
from thinkery.pipeline.read import open_run

FILE = RESULTS / "ablations.json"
COMMON = ("zero.grpo.updates=60", "zero.grpo.eval_every=10")
PPO = ("zero.grpo.advantage=gae", "zero.grpo.critic.lr=1e-3", "zero.grpo.critic.micro_batch_tokens=4096")
STALE = ("zero.grpo.minibatches=4",)
"""Four updates a rollout. With one, every ratio is 1: clips never act, and averages and ratios hardly differ."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "as shipped": (),
    "format weight 1": ("zero.format_weight=1",),
    "advantages over std": ("zero.grpo.advantage=group_std",),
    "both, as in the paper": ("zero.format_weight=1", "zero.grpo.advantage=group_std"),
    "RLOO": ("zero.grpo.advantage=rloo",),
    "PPO, lambda 1": PPO,
    "PPO, lambda 0.95": (*PPO, "zero.grpo.critic.gae_lambda=0.95"),
    "KL 0.01": ("zero.grpo.beta=0.01", "zero.grpo.reference_every=1000"),
    "KL 0.01, reference every 15": ("zero.grpo.beta=0.01", "zero.grpo.reference_every=15"),
    "groups of 4": ("zero.grpo.group_size=4", "zero.grpo.questions_per_update=96"),
    "groups of 8": ("zero.grpo.group_size=8", "zero.grpo.questions_per_update=48"),
    "groups of 32": ("zero.grpo.group_size=32", "zero.grpo.questions_per_update=12"),
    "groups of 64": ("zero.grpo.group_size=64", "zero.grpo.questions_per_update=6"),
    "pool by difficulty": ("zero.grpo.pool.order=difficulty",),
    "4 updates a rollout, clip 0.2": STALE,
    "4 updates a rollout, clip 10": (*STALE, "zero.grpo.clip_low=10", "zero.grpo.clip_high=10"),
    "4, averaged over all tokens (DAPO)": (*STALE, "zero.grpo.average=token", "zero.grpo.clip_high=0.28"),
    "4, averaged by a constant (Dr.GRPO)": (*STALE, "zero.grpo.average=constant"),
    "4, sequence ratio (GSPO)": (
        *STALE, "zero.grpo.ratio=sequence", "zero.grpo.clip_low=3e-4", "zero.grpo.clip_high=4e-4",
    ),
    "4, clipped weights (CISPO)": (
        *STALE, "zero.grpo.ratio=clipped_weight", "zero.grpo.average=token", "zero.grpo.clip_low=1.0",
    ),
}  # fmt: skip
"""The settings that each variant changes."""
STEPS = ("base", "exam", "problems", "zero", "eval-zero")
SHOWN = ("pass@1", "format", "language", "length")


def main() -> None:
    """Run the variants asked for and keep the file up to date after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs/ablations"), help="where the runs lie")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all")
    args = parser.parse_args()
    if unknown := set(args.variants) - VARIANTS.keys():
        parser.error(f"no such variant: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    found = json.loads(FILE.read_text())["variants"] if FILE.exists() else {}
    for name in args.variants or VARIANTS:
        found[name] = measure(args.dir / name.replace(" ", "-"), VARIANTS[name])
        write({variant: found[variant] for variant in VARIANTS if variant in found})
        print(name, {metric: round(found[name][metric]["value"], 3) for metric in SHOWN}, flush=True)


def measure(folder: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """Train one variant and read what came out; a variant that a check or an alarm stopped says so."""
    only = [word for name in STEPS for word in ("--only", name)]
    command = [sys.executable, "-m", "thinkery.cli", "run", "tiny", "--dir", str(folder), *only, *COMMON, *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    record = open_run(folder)
    metrics = record.artifacts["eval-zero"].data["metrics"]  # type: ignore[attr-defined]
    rows = record.metrics("zero")
    curve = [[row["step"], row["eval/exam/pass@1"]] for row in rows if "eval/exam/pass@1" in row]
    return {
        "settings": settings,
        **{name: metrics[name] for name in SHOWN},
        "curve": curve,
        "seconds": record.steps["zero"].seconds,
        "peak_memory_gb": round(max(row.get("perf/rss", 0) for row in rows) / 1e9, 2),
        "alarms": sorted({row["alarm"] for row in record.events() if row["kind"] == "alarm"}),
    }


def write(variants: dict[str, Any]) -> None:
    """Keep what is known so far."""
    RESULTS.mkdir(exist_ok=True)
    found = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "version": __version__,
        "command": "python -m bench.ablations",
        "samples": "24 x 16 an update, 60 updates, one seed",
        "variants": variants,
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
