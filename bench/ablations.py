"""What each choice in the RL stages is worth: one thing changed at a time.

    python -m bench.ablations --dir runs/ablations --of runs/claims/seed-0     →  bench/results/ablations.json
    python -m bench.ablations --dir runs/ablations RLOO "KL 0.01"       (these alone; the file keeps the others)

Variants of zero train on the same number of samples (24 x 16 an update, 60 updates) from the same base with the same
seed, and sit the exam of 400 held-out problems. Those of later stages branch off a finished run (`--of`). One seed:
differences inside the intervals are noise.
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
"""The settings that each variant of zero changes."""
LATER: dict[str, tuple[str, tuple[str, ...]]] = {
    "reason, as shipped": ("reason", ()),
    "reason, no language reward": ("reason", ("reason.language_weight=0",)),
    "align, as shipped": ("align", ()),
    "align, preference from the start": ("align", ("align.preference_from=0",)),
    "align, 120 updates, preference from the start": ("align", ("align.preference_from=0", "align.grpo.updates=120")),
}
"""Variants of later stages: the stage and the settings."""
SHOWN = ("pass@1", "format", "language", "length")
GENERAL = ("general", "preference", "harmless")


def main() -> None:
    """Run the variants asked for and keep the file up to date after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs/ablations"), help="where the runs lie")
    parser.add_argument("--of", type=Path, metavar="RUN", help="the finished run that later stages branch off")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all that can be run")
    args = parser.parse_args()
    known = [*VARIANTS, *LATER]
    if unknown := set(args.variants).difference(known):
        parser.error(f"no such variant: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if args.of is None and LATER.keys() & set(args.variants):
        parser.error("a variant of a later stage needs --of RUN")
    found = json.loads(FILE.read_text())["variants"] if FILE.exists() else {}
    for name in args.variants or (known if args.of else VARIANTS):
        found[name] = measure(name, args.dir / name.replace(",", "").replace(" ", "-"), args.of)
        write({variant: found[variant] for variant in known if variant in found})
        print(name, {metric: round(found[name][metric]["value"], 3) for metric in SHOWN}, flush=True)


def measure(name: str, folder: Path, source: Path | None) -> dict[str, Any]:
    """Train one variant and read what came out."""
    if name in VARIANTS:
        stage, settings = "zero", (*COMMON, *VARIANTS[name])
        steps, start = ("base", "exam", "problems", stage, f"eval-{stage}"), ()
    else:
        stage, settings = LATER[name]
        steps, start = (stage, f"eval-{stage}"), ("--branch", f"{source}@{stage}")
    only = [word for step in steps for word in ("--only", step)]
    command = [sys.executable, "-m", "thinkery.cli", "run", "tiny", "--dir", str(folder), *start, *only, *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    record = open_run(folder)
    metrics = record.artifacts[f"eval-{stage}"].data["metrics"]  # type: ignore[attr-defined]
    rows = record.metrics(stage)
    return {
        "stage": stage,
        "settings": settings,
        **{metric: metrics[metric] for metric in (*SHOWN, *GENERAL) if metric in metrics},
        "curve": [[row["step"], row["eval/exam/pass@1"]] for row in rows if "eval/exam/pass@1" in row],
        "train_flops": sum(row.get("perf/flops", 0) for row in rows),
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
        "samples": "zero: 24 x 16 an update, 60 updates; later stages as shipped; one seed",
        "variants": variants,
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
