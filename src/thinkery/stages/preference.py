"""Preference data and the two reward models (R1 v2 §B.3.3, §3.1).

Helpful: a judge compares two answers to a prompt several times, the order drawn at random; clear differences are
kept, and training takes as many pairs with a longer chosen answer as with a shorter. Harmless: responses are
labelled safe or unsafe one by one. Making the data and training on it are separate steps.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Literal

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Completion, Group, Sampling, Task
from thinkery.engine import EngineConfig
from thinkery.pipeline.artifact import Dataset, Model, task_to_row
from thinkery.pipeline.run import Run
from thinkery.rewards.preference import Reads, RewardModel
from thinkery.rewards.rubric import Rubric
from thinkery.stages.common import is_general, is_helpful, open_model, sample_chunks
from thinkery.stages.roles import Role, compare_of, label_of
from thinkery.train.preference import RewardModelConfig, train_reward_model


class SampledData(Config):
    """Settings shared by the two kinds of preference data."""

    prompts: int = 20_000
    """Prompts asked."""
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=8192)
    """How responses are sampled."""
    judge: Role = Role()
    """Who judges: the world's fixed rules, an LLM endpoint, or the model wired in as `judge`."""
    engine: EngineConfig = EngineConfig()
    """The sampler."""
    chunk: int = Field(default=64, json_schema_extra={"key": False})
    """Prompts between two points from which a killed run continues."""


class Pairs(SampledData):
    """Settings of the preference pairs; the paper keeps 66,000."""

    answers: int = 2
    """Answers sampled to a prompt; the first two that differ are compared."""
    judgements: int = 4
    """Times that a pair is judged, each in a random order (R1: 4)."""
    margin: float = 1.0
    """Least mean difference that counts as clear, exclusive (R1: 1)."""


class Labels(SampledData):
    """Settings of the safety labels; the paper has 106,000."""

    answers: int = 1
    """Responses sampled to a prompt."""


def compare_answers(run: Run, cfg: Pairs, model: Model, tasks: Dataset, judge: Model | None = None) -> Dataset:
    """Rows {messages, chosen, rejected, …}: pairs of answers between which the judge saw a clear difference."""
    asked = [task for task in tasks.tasks() if is_helpful(task)][: cfg.prompts]
    writer = run.dataset()
    with compare_of(cfg.judge, judge) as compare, open_model(cfg.engine, model) as engine:
        for key, groups in sample_chunks(
            run, engine, asked, cfg.sampling, Rubric(), writer, samples=cfg.answers, chunk=cfg.chunk
        ):
            writer.count("prompts", len(groups))
            pairs = [pair for group in groups if (pair := different_answers(group))]
            writer.count("different answers", len(pairs))
            for number, (pair, verdicts) in enumerate(
                zip(pairs, compare(pairs, cfg.judgements, run.seed), strict=True)
            ):
                if verdicts.failures:
                    writer.count("dropped: a verdict could not be read")
                elif abs(verdicts.mean or 0.0) <= cfg.margin:
                    writer.count("dropped: no clear difference")
                else:
                    writer.count("kept")
                    writer.add(pair_row(*pair, verdicts.mean or 0.0), f"{key}/{number:04d}")
    return writer.finish()


def different_answers(group: Group) -> tuple[Task, Completion, Completion] | None:
    """The first two answers that differ, None when all are the same."""
    first, *others = [rollout.completion for rollout in group.rollouts]
    return next(((group.task, first, other) for other in others if other.answer.strip() != first.answer.strip()), None)


def pair_row(task: Task, first: Completion, second: Completion, difference: float) -> dict:
    """A judged pair as a row; a positive difference favours the first answer."""
    chosen, rejected = (first, second) if difference > 0 else (second, first)
    return {
        "messages": [asdict(message) for message in task.messages],
        "chosen": turn_row(chosen),
        "rejected": turn_row(rejected),
        "difference": abs(difference),
        "task": task_to_row(task),
    }


def turn_row(completion: Completion) -> dict:
    """What was said, as an assistant's turn."""
    return {"role": "assistant", "content": completion.answer, "thought": completion.thought}


def label_safety(run: Run, cfg: Labels, model: Model, tasks: Dataset, judge: Model | None = None) -> Dataset:
    """Rows {messages, label}: the model's responses to general prompts, each labelled 1 (safe) or 0."""
    asked = [task for task in tasks.tasks() if is_general(task)][: cfg.prompts]
    writer = run.dataset()
    with label_of(cfg.judge, judge) as label, open_model(cfg.engine, model) as engine:
        for key, groups in sample_chunks(
            run, engine, asked, cfg.sampling, Rubric(), writer, samples=cfg.answers, chunk=cfg.chunk
        ):
            said = [(group.task, rollout.completion) for group in groups for rollout in group.rollouts]
            for number, ((task, completion), safe) in enumerate(zip(said, label(said), strict=True)):
                if safe is None:
                    writer.count("dropped: a label could not be read")
                    continue
                writer.count("safe" if safe else "unsafe")
                messages = [*(asdict(message) for message in task.messages), turn_row(completion)]
                row = {"messages": messages, "label": int(safe), "task": task_to_row(task)}
                writer.add(row, f"{key}/{number:04d}")
    return writer.finish()


class Helpful(RewardModelConfig):
    """The helpful reward model: pairs, judged by the final answer alone (R1 v2 §3.1)."""


class Harmless(RewardModelConfig):
    """The safety reward model: labels, judged by everything, the thought included (R1 v2 §3.1)."""

    loss: Literal["pairwise", "pointwise"] = "pointwise"
    reads: Reads = "all"


def reward_model(run: Run, cfg: RewardModelConfig, base: Model, data: Dataset) -> Model:
    """Train a scalar head on preference pairs or on safety labels; accuracy on a held-out tenth is recorded."""
    rows = length_balanced(list(data.rows()), run.seed)
    run.event("balanced", rows=len(rows), of=len(data))
    model = RewardModel.start(base.folder)
    learnt, unseen = [r for n, r in enumerate(rows) if n % 10], rows[::10]
    figures = train_reward_model(run, cfg, model, learnt, held_out=unseen)
    run.event("reward-model", **figures)
    return run.save_model(model.save)


def length_balanced(rows: list[dict], seed: int) -> list[dict]:
    """Pairs of which as many have the longer answer chosen as rejected, so that length itself earns nothing.

    The excess of the more frequent side is dropped at random; pairs of equal length and labels all stay.
    """
    sides: dict[int, list[int]] = {1: [], 0: [], -1: []}
    for place, row in enumerate(rows):
        difference = len(row["chosen"]["content"]) - len(row["rejected"]["content"]) if "chosen" in row else 0
        sides[(difference > 0) - (difference < 0)].append(place)
    count = min(len(sides[1]), len(sides[-1]))
    rng = random.Random(f"balance/{seed}")
    kept = sides[0] + rng.sample(sides[1], count) + rng.sample(sides[-1], count)
    return [rows[place] for place in sorted(kept)]
