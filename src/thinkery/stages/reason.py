"""Stage 2 (v1 §2.3.2): reasoning reinforcement learning with a language-consistency reward."""

from __future__ import annotations

from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks
from thinkery.rewards.language import consistency
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.train.grpo import Grpo


class ReasonGrpo(Grpo):
    """Stage 2's loop: R1 clips at 10 here (v2 §B.4.1)."""

    clip_low: float = 10.0
    clip_high: float = 10.0
    max_tokens: tuple[tuple[int, int], ...] = ((0, 32_768),)


class Reason(Reinforce):
    """Settings of the reasoning reinforcement learning (R1 v2 §B.4.1)."""

    grpo: Grpo = ReasonGrpo()
    """The loop."""
    language_weight: float = 1.0
    """Weight of the share of the target language in the thought, added to the rest."""


def reason(run: Run, cfg: Reason, start: Model, tasks: Dataset, exam: Dataset | None = None) -> Model:
    """Train the cold-started model by GRPO on accuracy, format and language."""
    rubric = Rubric(accuracy=accuracy, format=thinks, language=Part(consistency, weight=cfg.language_weight))
    return reinforce(run, cfg, start, list(tasks.tasks()), rubric, exam=exam)


reason.on_all_ranks = True  # type: ignore[attr-defined]
