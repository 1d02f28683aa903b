"""Stage 0, R1-Zero (v1 §2.2): reinforcement learning on the base model alone, with rule rewards."""

from __future__ import annotations

from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks_then_answers
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.reinforce import Reinforce, reinforce


class Zero(Reinforce):
    """Settings of the first reinforcement learning (R1 v2 §B.4.1)."""

    template: str = "r1-zero"
    """What the base model is asked with, and what the result keeps: `r1-zero` (v1 Table 1), `world-zero`, or Jinja."""
    format_weight: float = 1.0
    """Weight of the format reward beside accuracy; R1 gives both the same."""


def zero(run: Run, cfg: Zero, base: Model, tasks: Dataset, exam: Dataset | None = None) -> Model:
    """Train the base model by GRPO on accuracy and format."""
    rubric = Rubric(accuracy=accuracy, format=Part(thinks_then_answers, weight=cfg.format_weight))
    return reinforce(run, cfg, base, list(tasks.tasks()), rubric, exam=exam, template=cfg.template)


zero.on_all_ranks = True  # type: ignore[attr-defined]
