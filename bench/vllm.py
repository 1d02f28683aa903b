"""GRPO with samples of vLLM beside GRPO with samples of the built-in engine: the same tasks, seeds and settings.

    /opt/vllm/bin/python -m bench.vllm --updates 12                            # an environment with vLLM and Thinkery
    python -m bench.vllm --updates 12 --python /opt/vllm/bin/python            # vLLM as a server of its own

Writes the curves of reward, mismatch KL and effective sample size to bench/results/vllm.json. The embedded base learns
chains of calculations; samples differ, since the two engines turn the same seed into other draws.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path

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

CURVES = ("reward/mean", "policy/mismatch_kl", "policy/effective_samples", "time/rollout", "time/update")


def main() -> None:
    """Train twice, and keep both curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--python", default="", help="the Python of vLLM's environment; here, where left out")
    args = parser.parse_args()
    vllm = VllmConfig(python=args.python, dtype="float32", max_len=256, max_batch=128, kv_memory=0.25, tolerance=1e-3)
    curves = {"native": curve(args.updates, None), "vllm": curve(args.updates, vllm)}
    found = {"date": date.today().isoformat(), "machine": machine(), "updates": args.updates, "curves": curves}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "vllm.json").write_text(json.dumps(found, indent=1) + "\n")


def curve(updates: int, vllm: VllmConfig | None) -> dict[str, list[float]]:
    """The metrics of a run of so many updates from the embedded base."""
    loop = Grpo(
        policy=PolicyConfig(lr=3e-4), updates=updates, group_size=8, questions_per_update=16, minibatches=1,
        max_tokens=((0, 112),), beta=0.0, advantage="group_mean", skip_no_spread=True, preflight=0, keep_rollouts=0,
        checkpoint_every=updates,
    )  # fmt: skip
    cfg = Reinforce(grpo=loop.model_copy(), vllm=vllm)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", "zero", seed=1)
        tasks = load_tasks([Source(source="world", kind="chain", limit=400)], seed=1)
        rubric = Rubric(accuracy=accuracy, format=Part(thinks_then_answers, weight=0.2))
        reinforce(run, cfg, fetch(run, Fetch()), tasks, rubric, template="world-zero")
        rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    print("vLLM" if vllm else "native", *(f"{row['reward/mean']:.3f}" for row in rows if "reward/mean" in row))
    return {name: [round(row[name], 6) for row in rows if name in row] for name in CURVES}


if __name__ == "__main__":
    main()
