"""Supervised fine-tuning: cold start (stage 1), refine (stage 3) and distillation are one function.

All three start from a base model that never saw reinforcement learning; earlier checkpoints only made the data.
"""

from __future__ import annotations

from pydantic import Field

from thinkery.config import Config
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.run import Run
from thinkery.stages.common import template_of
from thinkery.train.policy import open_policy
from thinkery.train.sft import Sft, SftPolicy, sft


class Imitate(Config):
    """Settings of supervised fine-tuning (R1 v2 §B.4.2)."""

    template: str = "chat"
    """The chat template the model learns and keeps: `chat`, or Jinja. An alarm rings where its earlier turns do not end
    with the token that answers are learnt to end with."""
    held_out: float = 0.02
    """Share of the corpus that is kept for measuring the loss."""
    sft: Sft = Sft()
    """The loop."""


class DistillSft(Sft):
    """Distillation's loop (R1 v2 §B.4.3): the small models' batch and their first learning rate."""

    policy: SftPolicy = SftPolicy(lr=1e-4)
    batch: int = Field(default=64, ge=1)


class Distill(Imitate):
    """Settings of the distillation; R1 starts at 1e-4 for 1.5B down to 2e-5 for 70B."""

    sft: Sft = DistillSft()
    """The loop."""


def imitate(run: Run, cfg: Imitate, base: Model, corpus: Dataset) -> Model:
    """Teach a base model the corpus's conversations; the loss is on the assistant's words and the end of turn."""
    rows = list(corpus.rows())
    every = round(1 / cfg.held_out) if cfg.held_out else 0
    unseen = rows[::every] if every and len(rows) >= 2 * every else []
    learnt = [row for n, row in enumerate(rows) if not unseen or n % every]
    with open_policy(run, base, cfg.sft.policy) as policy:
        policy.tokenizer = policy.tokenizer.with_template(template_of(cfg.template))
        sft(run, cfg.sft, policy, learnt, held_out=unseen)
        return run.save_model(policy.save_model)


imitate.on_all_ranks = True  # type: ignore[attr-defined]
