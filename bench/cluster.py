"""The simulation behind `thinkery plan --cluster`, beside what this machine does as a cluster of one and two cores.

    env OMP_NUM_THREADS=1 python -m bench.cluster      →  bench/results/cluster.json

One processor with one thread stands for a GPU. Rates are measured first: how long a token takes with one sample and
with many; how fast the embedded network learns; how fast two ranks add numbers up, and what FSDP2's exchanges cost in a
very small update. With these, and the lengths that were sampled, `recipes/cluster.py:phases` predicts updates of GRPO
that no rate was taken from, on one rank and on two (FSDP2): sampling, learning, and the whole.

Times are processor seconds of a rank that has one thread: what a clock would show were it alone on a core, but for
waiting for the other rank. So what else the machine does disturbs them little, though caches are shared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from bench.learning import TASKS
from bench.recipe import machine, write
from thinkery.cli.recipe import open_recipe
from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.launch.local import environments
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.model.transformer import Shape
from thinkery.pipeline.files import read_rows
from thinkery.pipeline.ranks import joined
from thinkery.pipeline.run import Run
from thinkery.recipes.arithmetic import cache_bytes, parameters
from thinkery.recipes.cluster import SIZES, Gpu, estimate, learning_work, learnt_tokens, phases, token_s
from thinkery.recipes.plan import fetched_shape, shape_of
from thinkery.recipes.probe import probe
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.rubric import Rubric
from thinkery.stages.common import template_of
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.train.grpo import Grpo
from thinkery.train.policy import PolicyConfig

UPDATES, GROUP, LONGEST = 3, 8, 112
MANY = 64
"""Samples of the engine's second measurement."""
LEARNT, FEWEST = 8, 2
"""Questions of the update of one rank from which the rate of learning is taken, and of the one of two ranks from which
the cost of an exchange is."""
SIMULATED = [
    "base.model=Qwen/Qwen2.5-Math-7B",
    "zero.grpo.policy.sharding=fsdp",
    "zero.grpo.policy.activations=recomputed",
    "zero.grpo.max_tokens=[[0,32768]]",
]
"""Settings of the table in docs/scale.md."""
FILL = 0.25
PREDICTED = ((1, 16), (2, 16), (2, 32))
"""Ranks, and questions of an update."""


def main() -> None:
    """Measure, predict, compare, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--questions", type=int, default=LEARNT, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    time.perf_counter = time.process_time  # by which `rollout.py:Clock` tells the phases of an update
    if args.rank:
        as_rank(args.rank, args.questions)
        return
    began = time.monotonic()
    shape = fetched_shape("tiny")
    gpu, measured = rates(shape)
    rows = [compared(shape, gpu, update(ranks, questions), ranks, questions) for ranks, questions in PREDICTED]
    off = [abs(row["predicted_s"]["update"] / row["measured_s"]["update"] - 1) for row in rows]
    write("cluster", {
        "date": date.today().isoformat(), "machine": machine(), "wall_s": round(time.monotonic() - began, 1),
        "parameters": parameters(shape), "group_size": GROUP, "rates": asdict(gpu), "measured": measured,
        "updates": rows, "simulated": simulated(),
        "mean_error": round(fmean(off), 3), "largest_error": round(max(off), 3),
    })  # fmt: skip


def simulated() -> dict[str, Any]:
    """What `thinkery plan r1 --cluster` says of a 7B's R1-Zero: every size of cluster, with the rates it assumes."""
    step = open_recipe(["r1"], SIMULATED, environ={}).graph()["zero"]
    shape = shape_of(step)
    assert shape
    sizes = [asdict(estimate(step.config, shape, Gpu(), gpus, FILL)) for gpus in SIZES]
    return {"settings": SIMULATED, "fill": FILL, "updates": step.config.grpo.updates, "sizes": sizes}


def rates(shape: Shape) -> tuple[Gpu, dict[str, Any]]:
    """What one processor does, as the simulation asks for it, and the measurements it was worked out from."""
    here = probe(shape, Path(tempfile.gettempdir()), 8e9)
    one, many = seconds_a_token(1), seconds_a_token(MANY)
    learnt = update(1, LEARNT)
    how, lengths = loop(LEARNT), learnt["lengths"]
    cached = cache_bytes(shape) * (learnt["prompt"] + fmean(lengths) / 2)
    gpu = Gpu(
        flops=learning_work(how, shape, lengths, learnt["prompt"]) / learnt["learning"],
        bfloat16_flops=0.0,
        bandwidth=here.bandwidth,
        memory=8e9,
        network=bytes_between_ranks(),
        collective_s=0.0,
        host=here.bandwidth,
        latency_s=0.0,
        sample_s=0.0,
        price=0.0,
    )
    rest, rests = (took - token_s(count, cached, shape, gpu) for count, took in ((1, one), (MANY, many)))
    each = (rests - rest) / (MANY - 1)
    small = update(2, FEWEST)
    gpu = replace(gpu, sample_s=each, latency_s=rest - each, collective_s=exchange_s(shape, gpu, small))
    tokens = round(learnt_tokens(how, lengths, learnt["prompt"]))
    return gpu, {
        "token_s": {1: one, MANY: many}, "matrix_flops": here.flops, "learnt_tokens": tokens,
        "learning_s": learnt["learning"], "exchanging_s": small["learning"],
    }  # fmt: skip


def exchange_s(shape: Shape, gpu: Gpu, small: Mapping[str, Any]) -> float:
    """What is left of the learning of a small update of two ranks for each exchange that the simulation counts."""
    cfg, lengths, prompt = Reinforce(grpo=loop(FEWEST)), small["lengths"], small["prompt"]
    free, priced = (
        phases(cfg, shape, replace(gpu, collective_s=seconds), 2, lengths, len(lengths), prompt)
        for seconds in (0.0, 1.0)
    )
    exchanges = priced["weights and gradients"] - free["weights and gradients"]
    return (small["learning"] - free["learning"] - free["weights and gradients"]) / exchanges


def seconds_a_token(samples: int) -> float:
    """How long an engine takes to give so many samples a token each."""
    network, tokenizer = load_model(locate("tiny"))
    tokenizer = tokenizer.with_template(template_of("world-zero"))
    with open_engine(network.eval(), tokenizer, EngineConfig(max_batch=MANY)) as engine:
        request = Request(
            tuple(range(samples)),
            Sampling(max_tokens=64),
            TASKS[0].messages,
            bias=lambda said: dict.fromkeys(ends, -1e9),
        )
        ends = engine.eos_ids
        list(generate(engine, [request]))
        began = time.perf_counter()
        list(generate(engine, [request]))
        return (time.perf_counter() - began) / 64


ADD = """
import os, time
import torch
from thinkery.pipeline.ranks import joined
torch.set_num_threads(1)
with joined(os.environ) as ranks:
    numbers = torch.ones(2**24)
    ranks.add([numbers])
    began = time.process_time()
    for _ in range(3):
        ranks.add([numbers])
    print(3 * 4 * 2**24 / (time.process_time() - began))
"""


def bytes_between_ranks() -> float:
    """How fast two ranks add numbers up, in bytes a second."""
    ranks = [
        subprocess.Popen([sys.executable, "-c", ADD], env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
        for env in environments(2).values()
    ]
    rate, _ = [rank.communicate()[0] for rank in ranks]
    return float(rate)


def update(ranks: int, questions: int) -> dict[str, Any]:
    """What an update of so many questions takes on so many ranks: median seconds by phase, and its lengths."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.cluster", "--rank", folder, "--questions", str(questions)]
        started = [
            subprocess.Popen(command, env={**os.environ, **(env if ranks > 1 else {})})
            for env in environments(ranks).values()
        ]
        if any(process.wait() for process in started):
            sys.exit("a rank failed")
        rows = list(read_rows(Path(folder) / "metrics.jsonl"))[1:]
        samples = [list(read_rows(path)) for path in sorted(Path(folder).glob("rollouts/*.jsonl.gz"))][1:]
        prompt = json.loads((Path(folder) / "prompt.json").read_text())
    print(f"{ranks} ranks, {questions} questions: {median(row['time/step'] for row in rows):.2f} s", flush=True)
    return {
        "sampling": median(row["time/rollout"] for row in rows),
        "learning": median(row["time/update"] for row in rows),
        "update": median(row["time/rollout"] + row["time/update"] for row in rows),
        "lengths": [[sample["tokens"] for sample in each] for each in samples][len(samples) // 2],
        "prompt": prompt,
    }


def as_rank(folder: Path, questions: int) -> None:
    """One rank of a run: GRPO from the embedded base, in turn."""
    with joined(os.environ) as ranks:
        run = Run(folder, "zero", seed=1, ranks=ranks)
        base = fetch(Run(folder / "base", "base"), Fetch())
        cfg = Reinforce(grpo=loop(questions), engine=EngineConfig(max_batch=GROUP * questions))
        reinforce(run, cfg, base, TASKS, Rubric(accuracy=accuracy), template="world-zero")
        if ranks.rank == 0:
            _, tokenizer = load_model(locate("tiny"))
            tokenizer = tokenizer.with_template(template_of("world-zero"))
            prompt = fmean(len(tokenizer.prompt(task.messages)[0]) for task in TASKS[:100])
            (folder / "prompt.json").write_text(json.dumps(prompt))


def loop(questions: int) -> Grpo:
    """The settings of GRPO."""
    return Grpo(
        policy=PolicyConfig(lr=1e-6, sharding="fsdp", micro_batch_tokens=4096), updates=UPDATES, group_size=GROUP,
        questions_per_update=questions, minibatches=1, max_tokens=((0, LONGEST),), preflight=0,
        checkpoint_every=10 * UPDATES, reference_every=10 * UPDATES,
    )  # fmt: skip


def compared(shape: Shape, gpu: Gpu, measured: dict[str, Any], ranks: int, questions: int) -> dict[str, Any]:
    """One update as it was predicted and as it was."""
    lengths: Sequence[int] = measured["lengths"]
    cfg = Reinforce(grpo=loop(questions))
    found = phases(cfg, shape, gpu, ranks, lengths, len(lengths), measured["prompt"])
    sampling = found["sampling"] + found["the longest samples"]
    learning = found["learning"] + found["weights and gradients"]
    predicted = {"sampling": sampling, "learning": learning, "update": sampling + learning}
    return {
        "ranks": ranks,
        "questions": questions,
        "tokens": sum(lengths),
        "predicted_s": {name: round(value, 3) for name, value in predicted.items()},
        "measured_s": {name: round(measured[name], 3) for name in predicted},
    }


if __name__ == "__main__":
    main()
