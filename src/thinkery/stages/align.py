"""Stage 4 (v1 §2.3.4): the last reinforcement learning, where preference joins for the final updates only.

Reasoning prompts take rule rewards. Each general prompt belongs to the helpful or the harmless set and takes that
model's score and the format; language counts on all. The preference reward comes late because it gets hacked
(v2 §B.5): while it rises, held-out accuracy is watched, and an alarm names the component that pays for the fall.
"""

from __future__ import annotations

from pydantic import Field

from thinkery.core import Task
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks
from thinkery.rewards.language import consistency
from thinkery.rewards.preference import PreferenceReward
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import is_harmful, is_helpful, is_reasoning
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.train.grpo import Grpo


class AlignGrpo(Grpo):
    """Stage 4's loop (v2 §B.4.3): stage 2's, colder and for fewer updates."""

    updates: int = 1700
    temperature: float = 0.7
    clip_low: float = 10.0
    clip_high: float = 10.0
    max_tokens: tuple[tuple[int, int], ...] = ((0, 32_768),)


class Align(Reinforce):
    """Settings of the alignment (R1 v2 §B.4.3)."""

    grpo: Grpo = AlignGrpo()
    """The loop."""
    preference_from: int = Field(default=1300, ge=0)
    """The update from which general prompts and preference rewards take part, or that at which the next rollout begins,
    every `grpo.minibatches` updates; R1: the last 400 of 1,700."""
    general_share: float = Field(default=0.5, ge=0, le=1)
    """Share of general prompts from then on."""
    preference_weight: float = 1.0
    """Weight of the reward models' scores."""
    language_weight: float = 1.0
    """Weight of the share of the target language in the thought."""

    @property
    def joins(self) -> int:
        """The updates before the first rollout that preference takes part in."""
        return -(-self.preference_from // self.grpo.minibatches) * self.grpo.minibatches


def align(
    run: Run,
    cfg: Align,
    start: Model,
    tasks: Dataset,
    general: Dataset,
    helpful: Model,
    harmless: Model,
    exam: Dataset | None = None,
) -> Model:
    """Train on rules alone, then on rules, helpfulness and harmlessness together; an alarm where that never begins."""
    if cfg.joins >= cfg.grpo.updates:
        seen = (
            f"preference would join after {cfg.joins} updates, and the last is the {cfg.grpo.updates}th: it never does"
        )
        run.alarm("no-preference", seen, "preference_from", "let it join earlier, or train for more updates")
    rules = {
        "accuracy": Part(accuracy, applies=is_reasoning),
        "format": thinks,
        "language": Part(consistency, weight=cfg.language_weight),
    }
    preference = {
        "helpful": Part(
            PreferenceReward(helpful.folder, reads="answer"), weight=cfg.preference_weight, applies=is_helpful
        ),
        "harmless": Part(
            PreferenceReward(harmless.folder, reads="all"), weight=cfg.preference_weight, applies=is_harmful
        ),
    }
    reasoning, mixed = list(tasks.tasks()), mix(list(tasks.tasks()), list(general.tasks()), cfg.general_share)
    return reinforce(
        run,
        cfg,
        start,
        lambda update: mixed if update >= cfg.preference_from else reasoning,
        lambda update: Rubric(**rules, **(preference if update >= cfg.preference_from else {})),
        exam=exam,
    )


align.on_all_ranks = True  # type: ignore[attr-defined]


def mix(reasoning: list[Task], general: list[Task], share: float) -> list[Task]:
    """Both kinds so that `share` of them is general; the more plentiful kind is cut."""
    count = min(
        len(general) / share if share else len(reasoning), len(reasoning) / (1 - share) if share < 1 else len(general)
    )
    wanted = round(count * share)
    return reasoning[: round(count) - wanted] + general[:wanted]
