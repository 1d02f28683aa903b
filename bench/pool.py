"""Engines in processes of their own: what a second core brings to sampling, and what sampling ahead brings to training.

    env OMP_NUM_THREADS=1 python -m bench.pool      →  bench/results/pool.json; the machine should do nothing else
    env OMP_NUM_THREADS=1 python -m bench.pool sampling     the first question alone; the others' answers stay

The embedded model samples and learns chains of calculations. Three questions, each with the number that was promised:
two processes on two cores sample at least 1.8 times what one does; with one core for rollouts and one for training, a
step takes at most 1.15 times the slower of the two phases; and the reward learnt one rollout ahead, with importance
correction, is that learnt in turn within the noise of three seeds (the 95 % interval of the difference contains 0).

Beside the first stands what two processes bring that know nothing of each other, each with an engine and half of the
questions: what the machine itself gives a second process. Runs that are trained begin with the model of
`bench.learning`, which says why not with the base.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from bench.learning import LOOP, RUBRIC, TASKS, TEMPLATE, difference, start
from bench.recipe import RESULTS, machine, write
from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.engine.base import Engine
from thinkery.engine.pool import open_pool
from thinkery.model.hf import load_model
from thinkery.pipeline.run import Run
from thinkery.stages.common import template_of
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce

RESULT = RESULTS / "pool.json"
SHARED = 128
"""Questions that are shared out, 16 samples each."""
BARRIER: Barrier | None = None
"""Where processes wait for each other before they sample apart."""


def main() -> None:
    """Measure what is asked for and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="sampling or training; both by default")
    parser.add_argument("--repeats", type=int, default=5, help="times that the same requests are sampled")
    parser.add_argument("--updates", type=int, default=20, help="updates of each run that is trained")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    parts = {
        "sampling": lambda: sampling(args.repeats),
        "training": lambda: training(args.updates, range(1, args.seeds + 1)),
    }
    if unknown := set(args.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in args.parts or parts:
        started = time.perf_counter()
        found = parts[name]()
        stamp = {"date": date.today().isoformat(), "wall_s": round(time.perf_counter() - started, 1)}
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        write("pool", known | stamp | {"machine": machine(), name: stamp | found})
    if missed := [name for name, held in promises(json.loads(RESULT.read_text())).items() if not held]:
        sys.exit(f"missed: {', '.join(missed)}")


def promises(found: Mapping[str, Any]) -> dict[str, bool]:
    """What was promised and measured, and whether it was kept."""
    kept = {}
    if part := found.get("sampling"):
        kept["two processes sample 1.8 times what one does"] = part["speedup"] >= part["promised"]
    if part := found.get("training"):
        kept["a step takes 1.15 times its slower phase"] = part["step_over_slower_phase"] <= part["promised"]
        kept["the reward learnt ahead is that learnt in turn"] = part["all_updates"]["within noise"]
    return kept


def sampling(repeats: int) -> dict[str, object]:
    """Tokens a second of one process, of two, and of two that are not one pool's, each measured in turn."""
    rates: dict[str, list[float]] = {"1": [], "2": [], "2 apart": []}
    for _ in range(repeats):
        for name, rate in rates.items():
            rate.append(round(apart() if name == "2 apart" else tokens_per_s(int(name))))
            print(f"{name}: {rate[-1]} tokens/s", flush=True)
    one, two, machines = (median(rate) for rate in rates.values())
    return {
        "tokens_per_s": rates, "speedup": round(two / one, 3), "promised": 1.8,
        "speedup_of_two_apart": round(machines / one, 3),
    }  # fmt: skip


def tokens_per_s(processes: int) -> float:
    """How fast a pool samples all questions, starting and weights not counted."""
    network, tokenizer = load_model(start())
    cfg = EngineConfig(processes=processes, max_batch=256)
    with open_pool(network.eval(), tokenizer.with_template(template_of(TEMPLATE)), cfg) as engine:
        list(generate(engine, requests(range(processes))))  # weights arrive, caches are warm
        tokens, seconds = counted(engine, requests(range(SHARED)))
    return tokens / seconds


def apart() -> float:
    """How fast two processes sample that begin at the same time, each with an engine of its own and half of the
    questions: all tokens over the time of the one that takes longer."""
    spawning = get_context("spawn")
    with spawning.Pool(2, wait_at, [spawning.Barrier(2)]) as processes:
        found = processes.map(alone, (range(0, SHARED, 2), range(1, SHARED, 2)), chunksize=1)
    return sum(tokens for tokens, _ in found) / max(seconds for _, seconds in found)


def wait_at(barrier: Barrier) -> None:
    """What `alone` begins at, for this process."""
    global BARRIER
    BARRIER = barrier


def alone(questions: range) -> tuple[int, float]:
    """Tokens and seconds of an engine in this process, from when the other process is as far."""
    torch.set_num_threads(1)
    network, tokenizer = load_model(start())
    with open_engine(
        network.eval(), tokenizer.with_template(template_of(TEMPLATE)), EngineConfig(max_batch=256)
    ) as engine:
        list(generate(engine, requests(questions[:1])))
        assert BARRIER is not None
        BARRIER.wait()
        return counted(engine, requests(questions))


def requests(questions: range) -> list[Request]:
    """The same for every engine: question n has samples of its own."""
    how = Sampling(max_tokens=112)
    return [Request(tuple(range(16 * n, 16 * n + 16)), how, TASKS[n].messages) for n in questions]


def counted(engine: Engine, asked: list[Request]) -> tuple[int, float]:
    """Tokens sampled, and the seconds it took."""
    started = time.perf_counter()
    ended = [event.completion for _, events in generate(engine, asked) for event in events if event.completion]
    return sum(len(completion.tokens) for completion in ended), time.perf_counter() - started


def training(updates: int, seeds: range) -> dict[str, object]:
    """Runs in turn and one ahead, by seed: their steps' times and their rewards."""
    runs = {ahead: [metrics(updates, seed, ahead) for seed in seeds] for ahead in (0, 1)}
    steady = [row for run in runs[1] for row in run[1:-1]]  # the first waits for its own samples, the last samples none
    slower = [max(row["time/rollout"] + row["time/grading"], row["time/update"]) for row in steady]
    rewards = {a: [[round(row["reward/mean"], 4) for row in run] for run in runs[a]] for a in runs}
    return {
        "step_over_slower_phase": round(median(r["time/step"] / s for r, s in zip(steady, slower, strict=True)), 3),
        "promised": 1.15,
        "step_s": {a: round(median(row["time/step"] for run in runs[a] for row in run[1:-1]), 3) for a in runs},
        "effective_samples": round(fmean(told(steady, "policy/effective_samples")), 4),
        "staleness": sorted(set(told(steady, "policy/staleness"))),
        "rewards": rewards,
        "last_quarter": compared(rewards, updates // 4),
        "all_updates": compared(rewards, updates),
    }


def compared(rewards: Mapping[int, Sequence[Sequence[float]]], last: int) -> dict[str, object]:
    """The mean reward of the last so many updates, ahead and in turn, by seed, and the difference of their means."""
    ahead, in_turn = ([round(fmean(run[-last:]), 4) for run in rewards[a]] for a in (1, 0))
    return {"ahead": ahead, "in turn": in_turn, **difference(ahead, in_turn)}


def told(rows: list[dict[str, float]], name: str) -> list[float]:
    """A metric of the updates that tell it: nothing is corrected where no group had spread."""
    return [row[name] for row in rows if name in row]


def metrics(updates: int, seed: int, ahead: int) -> list[dict[str, float]]:
    """The metrics of a run whose samples come from one process beside the learner."""
    loop = LOOP.model_copy(
        update={"updates": updates, "skip_no_spread": True, "checkpoint_every": updates, "ahead": ahead,
                "old_logprobs": "trainer"}
    )  # fmt: skip
    cfg = Reinforce(grpo=loop, engine=EngineConfig(processes=1, max_batch=128))
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", "zero", seed=seed)
        reinforce(run, cfg, fetch(run, Fetch(model=str(start()))), TASKS, RUBRIC, template=TEMPLATE)
        rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    print(f"seed {seed}, ahead {ahead}:", *(f"{row['reward/mean']:.2f}" for row in rows), flush=True)
    return rows


if __name__ == "__main__":
    main()
