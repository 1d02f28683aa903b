"""Training whose answers are sampled and graded on a Ray cluster, for programs that tests start."""

from __future__ import annotations

import os

import torch

from thinkery.core import Completion, Score, Task, rule
from thinkery.engine import EngineConfig
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.tasks.world import problems
from thinkery.train.grpo import Grpo

TASKS = list(problems("train", 1, 8, kinds=("chain",)))


@rule
def judge(task: Task, completion: Completion) -> Score:
    """Who judges, as the reason."""
    return Score(1.0, str(os.getpid()))


def learn(run: Run, address: str, updates: int, **loop: int) -> None:
    """RL of the embedded base on eight questions an update, two samples of each, with an engine for every rank."""
    torch.set_num_threads(1)
    base = fetch(Run(run.dir.with_name(f"base-{run.rank}"), "base", seed=1), Fetch())
    grpo = Grpo(
        updates=updates, questions_per_update=8, group_size=2, minibatches=1, max_tokens=((0, 8),), preflight=0,
        **loop,
    )  # fmt: skip
    engine = EngineConfig(max_batch=8, max_len=96, processes=1, ray=address)
    reinforce(run, Reinforce(grpo=grpo, engine=engine), base, TASKS, Rubric(accuracy=judge), template="world-zero")
