"""What questions carried over (`grpo.spare`) do to a step and to what is learnt, on the embedded base.

    env OMP_NUM_THREADS=1 python -m bench.carried      →  bench/results/carried.json

Runs in turn, and with half as many questions more in flight as an update needs: how many tokens in a row an update
samples (its longest sample, or its spans), how old what it learns from is and what that is still worth, and whether the
reward learnt is that of runs in turn within the noise of the seeds. Nothing here depends on the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import fmean, stdev

import torch

from bench.pool import TASKS
from bench.recipe import machine, write
from thinkery.engine import EngineConfig
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks_then_answers
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.train.grpo import Grpo
from thinkery.train.policy import PolicyConfig

NEEDED, SPAN, LONGEST = 16, 16, 112
KINDS = {"in turn": {}, "carried": {"spare": NEEDED // 2, "span": SPAN}}


def main() -> None:
    """Train with each setting and seed, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    runs = {name: [trained(args.updates, seed, kind) for seed in range(args.seeds)] for name, kind in KINDS.items()}
    write("carried", {
        "date": date.today().isoformat(), "machine": machine(), "wall_s": round(time.monotonic() - began, 1),
        "updates": args.updates, "needed": NEEDED, **KINDS["carried"], **{n: summary(r) for n, r in runs.items()},
    })  # fmt: skip


def trained(updates: int, seed: int, kind: dict[str, int]) -> list[dict[str, float]]:
    """The metrics of a run."""
    loop = Grpo(
        policy=PolicyConfig(lr=3e-4), updates=updates, group_size=8, questions_per_update=NEEDED, minibatches=1,
        max_tokens=((0, LONGEST),), beta=0.0, advantage="group_mean", skip_no_spread=True, preflight=0,
        keep_rollouts=0, checkpoint_every=updates, **kind,
    )  # fmt: skip
    cfg = Reinforce(grpo=loop, engine=EngineConfig(max_batch=8 * 2 * NEEDED))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", "zero", seed=seed)
        rubric = Rubric(accuracy=accuracy, format=Part(thinks_then_answers, weight=0.2))
        reinforce(run, cfg, fetch(run, Fetch()), TASKS, rubric, template="world-zero")
        rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    print(kind, *(f"{row['reward/mean']:.2f}" for row in rows), flush=True)
    return rows


def summary(runs: list[list[dict[str, float]]]) -> dict[str, object]:
    """What the runs of one kind have in common, leaving out the ends, where in flight is not what it always is."""
    steady = [row for run in runs for row in run[2:-3]]
    last = [fmean(row["reward/mean"] for row in run[-len(run) // 4 :]) for run in runs]
    rows = {
        "tokens_in_a_row": fmean(
            row.get("flights/spans", 0.0) * SPAN or row["completion/length_max"] for row in steady
        ),
        "staleness": fmean(row["policy/staleness"] for row in steady),
        "effective_samples": fmean(row.get("policy/effective_samples", 1.0) for row in steady),
        "last_quarter_reward": fmean(last),
        "noise": stdev(last) if len(last) > 1 else math.nan,
    }
    rewards = [[round(row["reward/mean"], 4) for row in run] for run in runs]
    numbers = {
        name: round(value, 4) for name, value in rows.items() if value == value
    }  # one seed says nothing of noise
    return {**numbers, "rewards": rewards}


if __name__ == "__main__":
    main()
