"""Every variant that the claims compare is reached by settings alone, and each of them learns something else."""

from __future__ import annotations

import torch

from thinkery.config import load
from thinkery.core import Completion, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.pipeline.run import Run
from thinkery.recipes.r1 import R1
from thinkery.rewards.rubric import Rubric
from thinkery.train.grpo import Grpo, grpo
from thinkery.train.loss import Totals, grpo_loss

TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(8)]
SMALL = ("updates=4", "minibatches=2", "questions_per_update=2", "max_tokens=[[0, 5]]", "preflight=0", "eval_every=0",
         "policy.lr=2e-2", "advantage=group_std", "beta=0.02", "skip_no_spread=false")  # fmt: skip
VARIANTS = {
    "paper": (),
    "dapo": ("average=token", "clip_high=0.28", "resample=8"),
    "dr-grpo": ("average=constant", "advantage=group_mean"),
    "gspo": ("ratio=sequence", "clip_low=3e-4", "clip_high=4e-4"),
    "cispo": ("ratio=clipped_weight", "average=token", "clip_low=1.0", "clip_high=0.2"),
    "rloo": ("advantage=rloo",),
    "ppo": ("advantage=gae", "critic.lr=1e-2"),
    "ppo-0.95": ("advantage=gae", "critic.lr=1e-2", "critic.gae_lambda=0.95"),
    "clip-10": ("clip_low=10", "clip_high=10"),
    "kl-0": ("beta=0",),
    "kl-unbiased": ("unbiased_kl=true",),
    "reference-refreshed": ("reference_every=2",),
    "group-4": ("group_size=4",),
    "group-64": ("group_size=64",),
    "pool-filtered": ("pool.samples=4", "pool.lowest=0.3", "pool.highest=0.7"),
    "pool-weighted": ("pool.order=difficulty",),
}


def low(task: Task, completion: Completion) -> float:
    """The share of tokens in the lower half of the vocabulary; nothing on two tasks, which a filter finds."""
    return 0.0 if task.id in {"t0", "t1"} else sum(token < 128 for token in completion.tokens) / 5


def settings(variant: str) -> Grpo:
    """The embedded recipe's zero with the overrides of a command line."""
    return load(R1, ["tiny"], [f"zero.grpo.{key}" for key in (*SMALL, *VARIANTS[variant])]).config.zero.grpo


def test_every_variant_is_a_few_settings_and_learns_something_else(make_policy, tmp_path):
    trained: dict[bytes, str] = {}
    for variant in VARIANTS:
        cfg = settings(variant)
        policy = make_policy(lr=cfg.policy.lr)
        start = [p.clone() for p in policy.network.parameters()]
        with open_engine(policy.network, policy.tokenizer, EngineConfig(max_batch=128, max_len=64)) as engine:
            grpo(Run(tmp_path / variant, variant, seed=3), cfg, policy, engine, TASKS, Rubric(accuracy=low))
        end = list(policy.network.parameters())
        assert not any(torch.equal(a, b) for a, b in zip(start, end, strict=True)), variant
        weights = b"".join(p.detach().numpy().tobytes() for p in end)
        assert weights not in trained, (variant, trained[weights])
        trained[weights] = variant


def test_on_policy_the_clip_changes_nothing():
    """With one update a rollout every ratio is 1, so clips are compared with `minibatches` of 2 or more."""
    now = torch.tensor([-1.0, -2.0], requires_grad=True)
    gain = torch.tensor([1.0, -1.0])
    narrow, wide = (
        grpo_loss(now, now.detach(), None, gain, (1, 1), Totals(2, 2, 1), clip_low=clip, clip_high=clip)[0]
        for clip in (0.2, 10.0)
    )
    assert torch.equal(*torch.autograd.grad(narrow, now), *torch.autograd.grad(wide, now))
