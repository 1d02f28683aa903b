"""Training as one of several ranks, for tests: torchrun … ranked.py MODEL FOLDER JOB…; see `train` for a job's form."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from thinkery.core import Completion, Task
from thinkery.engine import EngineConfig, MembersConfig
from thinkery.engine.pool import open_engines
from thinkery.errors import Stopped
from thinkery.model.hf import load_model
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.ranks import Ranks, joined
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.stages.on_policy import OnPolicyDistill, OnPolicyGrpo, open_teacher
from thinkery.train.grpo import Grpo, grpo
from thinkery.train.optim import PolicyConfig
from thinkery.train.policy import Policy, open_policy
from thinkery.train.sft import Sft, sft

UPDATES = 20
TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(7)]
ROWS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes " * (1 + n % 5)}]}
    for n in range(11)
]


def low(task: Task, completion: Completion) -> float:
    """The share of tokens in the lower half of the vocabulary."""
    return sum(token < 128 for token in completion.tokens) / 6


def reinforce(run: Run, policy: Policy, **settings: int) -> None:
    """GRPO with a reference that is renewed on the way."""
    cfg = Grpo(
        updates=UPDATES, group_size=4, questions_per_update=3, minibatches=2, max_tokens=((0, 6),), beta=0.01,
        reference_every=8, checkpoint_every=4, resample=2, preflight=0,
        old_logprobs="trainer" if settings else "sampler", **settings,
    )  # fmt: skip
    engine = EngineConfig(max_batch=16, max_len=64, processes=int("ahead" in settings))
    with open_engines(policy.sampled, policy.tokenizer, engine) as sampler:
        grpo(run, cfg, policy, sampler, TASKS, Rubric(low=low))


def reinforce_ahead(run: Run, policy: Policy) -> None:
    """The same, each rollout sampled by a process of each rank while the one before is learnt, with questions over."""
    policy.tokenizer = replace(policy.tokenizer, stops=frozenset(range(236, 257)))
    reinforce(run, policy, ahead=1, spare=2, span=2)


def distill(run: Run, policy: Policy, **settings: MembersConfig) -> None:
    """On-policy distillation from the model of the folder `teacher`."""
    loop = OnPolicyGrpo(updates=UPDATES, questions_per_update=5, max_tokens=((0, 6),), checkpoint_every=4)
    cfg, teacher = OnPolicyDistill(grpo=loop, **settings), Model(run.dir.parent / "teacher", {"folder": "."})  # type: ignore[arg-type]
    with (
        open_teacher(cfg, policy, teacher) as judge,
        open_engines(policy.sampled, policy.tokenizer, EngineConfig(max_batch=16, max_len=64)) as sampler,
    ):
        grpo(run, loop, policy, sampler, TASKS, Rubric(low=low), baseline=judge)


def distill_from_afar(run: Run, policy: Policy) -> None:
    """The same, with the teacher in a process of its own."""
    distill(run, policy, teacher_engine=MembersConfig(processes=1))


def imitate(run: Run, policy: Policy) -> None:
    """Supervised training in which the last update of each epoch has three rows."""
    sft(run, Sft(epochs=-(-UPDATES // 3), batch=4, checkpoint_every=4), policy, ROWS, held_out=ROWS[:3])


JOBS = {
    "grpo": reinforce, "ahead": reinforce_ahead, "sft": imitate, "distill": distill, "distant": distill_from_afar,
}  # fmt: skip


def train(ranks: Ranks, model: Path, folder: Path, job: str) -> None:
    """One job: NAME/LOOP/SHARDING[+cpu|+split]/STOP. It continues what is in `folder`/NAME; STOP is the update after
    which the last rank asks to stop, 0 for none. At the end rank 0 writes weights and losses to NAME.pt."""
    name, loop, sharding, stop = job.split("/")
    attempt = ranks.tell(1 + (folder / name).exists())
    run = Run(folder / name, loop, seed=5, ranks=ranks, attempt=attempt)
    place, _, host = sharding.partition("+")
    activations = "recomputed" if place == "fsdp" and host != "cpu" else "kept"  # which changes no bit
    split = {"sequences": "split"} if host == "split" else {"offload": host or "none"}
    places = {"sharding": place, "activations": activations, **split}
    cfg = PolicyConfig(lr=1e-3, micro_batch_tokens=96, weight_decay=0.1, **places)  # type: ignore[arg-type]
    with open_policy(run, Model(model, {"folder": "."}), cfg) as policy:
        ask_to_stop(run, policy, int(stop))
        try:
            JOBS[loop](run, policy)
        except Stopped:
            return
        run.save_model(policy.save_model)
    if ranks.rank == 0:
        losses = [row["optim/loss"] for row in run.curves()]
        torch.save({"losses": losses, "weights": load_model(run.dir / "model")[0].state_dict()}, folder / f"{name}.pt")


def ask_to_stop(run: Run, policy: Policy, after: int) -> None:
    """Let the last rank alone ask for an end after an update."""
    apply = policy.apply

    def asking(lr: float) -> None:
        apply(lr)
        if policy.updates + 1 == after and run.rank == run.ranks.count - 1:
            run.stopping = True

    policy.apply = asking


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(os.environ) as joined_ranks:
        for each in sys.argv[3:]:
            train(joined_ranks, Path(sys.argv[1]), Path(sys.argv[2]), each)
