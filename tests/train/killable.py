"""A small GRPO run in a process of its own, for tests that kill it: python killable.py MODEL FOLDER OUT [pause_s]"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from thinkery.core import Completion, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.model.hf import load_model
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.train.grpo import Grpo, grpo
from thinkery.train.policy import Policy, PolicyConfig

TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(7)]
CFG = Grpo(
    policy=PolicyConfig(lr=1e-2), updates=10, group_size=4, questions_per_update=3, minibatches=2, max_tokens=((0, 6),),
    beta=0.01, reference_every=4, checkpoint_every=3, resample=2, preflight=0,
)  # fmt: skip


def main(model: Path, folder: Path, out: Path, pause_s: float = 0.0) -> None:
    """Train, and write the weights to `out`; `pause_s` before each grade leaves time to be killed."""
    torch.set_num_threads(1)

    def small(task: Task, completion: Completion) -> float:
        time.sleep(pause_s)
        return sum(token < 128 for token in completion.tokens) / 6

    network, tokenizer = load_model(model)
    policy = Policy(network, tokenizer, CFG.policy)
    with open_engine(network, tokenizer, EngineConfig(max_batch=16, max_len=64)) as engine:
        grpo(Run(folder, "zero", seed=5, attempt=1 + folder.exists()), CFG, policy, engine, TASKS, Rubric(small=small))
    torch.save(network.state_dict(), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *map(float, sys.argv[4:]))
