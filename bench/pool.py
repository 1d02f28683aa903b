"""Engines in processes of their own: what a second core brings to sampling, and what sampling ahead brings to training.

    env OMP_NUM_THREADS=1 python -m bench.pool      →  bench/results/pool.json; the machine should do nothing else

The embedded base samples and learns chains of calculations. Three questions, each with the number that was promised:
two processes on two cores sample at least 1.8 times what one does; with one core for rollouts and one for training, a
step takes at most 1.15 times the slower of the two phases; and the reward learnt one rollout ahead, with importance
correction, is that learnt in turn within the noise of three seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import fmean, median, stdev

import torch

from bench.recipe import machine, write
from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate
from thinkery.engine.pool import open_pool
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks_then_answers
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import template_of
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.tasks.sources import Source, load_tasks
from thinkery.train.grpo import Grpo
from thinkery.train.policy import PolicyConfig

TASKS = load_tasks([Source(source="world", kind="chain", limit=400)], seed=1)


def main() -> None:
    """Measure all three and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="times that the same requests are sampled")
    parser.add_argument("--updates", type=int, default=20, help="updates of each run that is trained")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = {"sampling": sampling(args.repeats), "training": training(args.updates, range(1, args.seeds + 1))}
    wall_s = round(time.perf_counter() - started, 1)
    write("pool", {"date": date.today().isoformat(), "machine": machine(), "wall_s": wall_s, **found})


def sampling(repeats: int) -> dict[str, object]:
    """Tokens a second of one process and of two, each measured in turn."""
    rates = {1: [], 2: []}
    for _ in range(repeats):
        for processes in rates:
            rates[processes].append(tokens_per_s(processes))
            print(f"{processes} processes: {rates[processes][-1]:.0f} tokens/s", flush=True)
    return {"tokens_per_s": rates, "speedup": round(median(rates[2]) / median(rates[1]), 3), "promised": 1.8}


def tokens_per_s(processes: int) -> float:
    """How fast a rollout of 64 questions, 16 samples each, is sampled, starting and weights not counted."""
    network, tokenizer = load_model(locate("tiny"))
    cfg = EngineConfig(processes=processes, max_batch=256)
    requests = [
        Request(tuple(range(16 * n, 16 * n + 16)), Sampling(max_tokens=112), task.messages)
        for n, task in enumerate(TASKS[:64])
    ]
    with open_pool(network.eval(), tokenizer.with_template(template_of("world-zero")), cfg) as engine:
        list(generate(engine, requests[:processes]))  # weights arrive, caches are warm
        started = time.perf_counter()
        ended = [event for _, events in generate(engine, requests) for event in events]
        elapsed = time.perf_counter() - started
    return sum(len(event.tokens) for event in ended) / elapsed


def training(updates: int, seeds: range) -> dict[str, object]:
    """Runs in turn and one ahead, by seed: their steps' times and their rewards."""
    runs = {ahead: [metrics(updates, seed, ahead) for seed in seeds] for ahead in (0, 1)}
    steady = [row for run in runs[1] for row in run[1:-1]]  # the first waits for its own samples, the last samples none
    slower = [max(row["time/rollout"] + row["time/grading"], row["time/update"]) for row in steady]
    ends = {a: [round(fmean(row["reward/mean"] for row in run[-updates // 4 :]), 4) for run in runs[a]] for a in runs}
    return {
        "step_over_slower_phase": round(median(r["time/step"] / s for r, s in zip(steady, slower, strict=True)), 3),
        "promised": 1.15,
        "step_s": {a: round(median(row["time/step"] for run in runs[a] for row in run[1:-1]), 3) for a in runs},
        "last_quarter_reward": ends,
        "difference": round(fmean(ends[1]) - fmean(ends[0]), 4),
        "noise": round(max(stdev(ends[0]), stdev(ends[1])), 4) if len(seeds) > 1 else None,
        "effective_samples": round(fmean(told(steady, "policy/effective_samples")), 4),
        "staleness": sorted(set(told(steady, "policy/staleness"))),
        "rewards": {a: [[round(row["reward/mean"], 4) for row in run] for run in runs[a]] for a in runs},
    }


def told(rows: list[dict[str, float]], name: str) -> list[float]:
    """A metric of the updates that tell it: nothing is corrected where no group had spread."""
    return [row[name] for row in rows if name in row]


def metrics(updates: int, seed: int, ahead: int) -> list[dict[str, float]]:
    """The metrics of a run from the embedded base, its samples from one process beside the learner."""
    loop = Grpo(
        policy=PolicyConfig(lr=3e-4), updates=updates, group_size=8, questions_per_update=16, minibatches=1,
        max_tokens=((0, 112),), beta=0.0, advantage="group_mean", skip_no_spread=True, preflight=0, keep_rollouts=0,
        checkpoint_every=updates, ahead=ahead, old_logprobs="trainer",
    )  # fmt: skip
    cfg = Reinforce(grpo=loop, engine=EngineConfig(processes=1, max_batch=128))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", "zero", seed=seed)
        rubric = Rubric(accuracy=accuracy, format=Part(thinks_then_answers, weight=0.2))
        reinforce(run, cfg, fetch(run, Fetch()), TASKS, rubric, template="world-zero")
        rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    print(f"seed {seed}, ahead {ahead}:", *(f"{row['reward/mean']:.2f}" for row in rows), flush=True)
    return rows


if __name__ == "__main__":
    main()
