"""Preference data and the two reward models (R1 v2 §B.3.3, §3.1).

Helpful: a judge compares two answers to a prompt several times, in an order drawn at random. A pair is kept where every
verdict could be read and their mean is clear; of these, as many stay with the longer answer chosen as with the shorter.
The funnel counts what each of these left out. Harmless: responses are labelled safe or unsafe one by one. Making the
data and training on it are separate steps.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Completion, Group, Sampling, Task
from thinkery.engine import EngineConfig
from thinkery.pipeline.artifact import Dataset, Model, task_to_row
from thinkery.pipeline.dataset import DatasetWriter
from thinkery.pipeline.run import Run
from thinkery.rewards.judge import Comparison
from thinkery.rewards.preference import Reads
from thinkery.rewards.rubric import Rubric
from thinkery.stages.common import is_general, is_helpful, open_model, sample_chunks
from thinkery.stages.roles import Role, compare_of, label_of
from thinkery.train.preference import RewardModelConfig, open_reward_model, train_reward_model

LEAST = 30
"""Responses of either label below which the labels are called one-sided."""


class SampledData(Config):
    """Settings shared by the two kinds of preference data."""

    prompts: int = Field(default=20_000, ge=1)
    """Prompts asked."""
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=8192)
    """How responses are sampled."""
    judge: Role = Role()
    """Who judges: the world's fixed rules, an LLM endpoint, or the model wired in as `judge`."""
    engine: EngineConfig = EngineConfig()
    """The sampler."""
    chunk: int = Field(default=64, ge=1, json_schema_extra={"key": "when set"})
    """Prompts between two points from which a killed run continues."""


class Pairs(SampledData):
    """Settings of the preference pairs; the paper keeps 66,000."""

    answers: int = Field(default=2, ge=2)
    """Answers sampled to a prompt; the first two that differ are compared."""
    judgements: int = Field(default=4, ge=1)
    """Times that a pair is judged, each in a random order (R1: 4)."""
    margin: float = 1.0
    """Least mean difference that counts as clear, exclusive (R1: 1)."""


class Labels(SampledData):
    """Settings of the safety labels; the paper has 106,000."""

    answers: int = Field(default=1, ge=1)
    """Responses sampled to a prompt."""


def compare_answers(run: Run, cfg: Pairs, model: Model, tasks: Dataset, judge: Model | None = None) -> Dataset:
    """Rows {messages, chosen, rejected, …}: pairs of answers between which the judge saw a clear difference.

    The manifest's `meta` has the mean lengths of the chosen and of the rejected answers, in characters.
    """
    asked = [task for task in tasks.tasks() if is_helpful(task)][: cfg.prompts]
    writer = run.dataset()
    with compare_of(cfg.judge, judge) as compare, open_model(cfg.engine, model) as engine:
        for key, groups in sample_chunks(
            run, engine, asked, cfg.sampling, Rubric(), writer, total=len(asked), samples=cfg.answers, chunk=cfg.chunk
        ):
            writer.count("prompts", len(groups))
            pairs = [pair for group in groups if (pair := different_answers(group))]
            writer.count("different answers", len(pairs))
            for number, (pair, verdicts) in enumerate(
                zip(pairs, compare(pairs, cfg.judgements, run.seed), strict=True)
            ):
                writer.count("judgements", cfg.judgements)
                writer.count("unreadable judgements", verdicts.failures)
                if problem := unclear(verdicts, cfg.margin):
                    writer.count(f"dropped: {problem}")
                else:
                    writer.add(pair_row(*pair, verdicts), f"{key}/{number:04d}")
    return length_balanced(run, writer)


compare_answers.version = 2  # type: ignore[attr-defined]


def different_answers(group: Group) -> tuple[Task, Completion, Completion] | None:
    """The first two answers that differ, None when all are the same."""
    first, *others = [rollout.completion for rollout in group.rollouts]
    return next(((group.task, first, other) for other in others if other.answer.strip() != first.answer.strip()), None)


def unclear(verdicts: Comparison, margin: float) -> str | None:
    """Why a pair teaches nothing; None where every verdict could be read and their mean is clear."""
    if verdicts.failures:
        return "a verdict could not be read"
    return "no clear difference" if abs(verdicts.mean or 0.0) <= margin else None


def pair_row(task: Task, first: Completion, second: Completion, verdicts: Comparison) -> dict:
    """A judged pair as a row; `verdicts` are turned so that they are seen from the chosen answer."""
    mean = verdicts.mean or 0.0
    chosen, rejected, sign = (first, second, 1) if mean > 0 else (second, first, -1)
    return {
        "messages": [asdict(message) for message in task.messages],
        "chosen": turn_row(chosen),
        "rejected": turn_row(rejected),
        "difference": abs(mean),
        "verdicts": [sign * score for score in verdicts.scores],
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
            run, engine, asked, cfg.sampling, Rubric(), writer, total=len(asked), samples=cfg.answers, chunk=cfg.chunk
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
    data = writer.finish()
    warn_of_one_sided(run, data.funnel)
    return data


def warn_of_one_sided(run: Run, funnel: Mapping[str, int]) -> None:
    """Ring when one of the labels hardly occurs, so that a model of them would learn what the other looks like."""
    rarer = min(("safe", "unsafe"), key=lambda label: funnel.get(label, 0))
    if (count := funnel.get(rarer, 0)) < LEAST:
        seen = f"{count} responses are labelled {rarer}, too few for a reward model to know them"
        run.alarm("one-sided", seen, "prompts", "ask more prompts, or sample hotter (sampling.temperature)")


class Helpful(RewardModelConfig):
    """The helpful reward model: pairs, judged by the final answer alone (R1 v2 §3.1)."""


class Harmless(RewardModelConfig):
    """The safety reward model: labels, judged by everything, the thought included (R1 v2 §3.1)."""

    loss: Literal["pairwise", "pointwise"] = "pointwise"
    reads: Reads = "all"


def reward_model(run: Run, cfg: RewardModelConfig, base: Model, data: Dataset) -> Model:
    """Train a scalar head on preference pairs or on safety labels; accuracy on a held-out tenth is recorded."""
    rows = list(data.rows())
    model = open_reward_model(base.folder, cfg)
    learnt, unseen = [r for n, r in enumerate(rows) if n % 10], rows[::10]
    figures = train_reward_model(run, cfg, model, learnt, held_out=unseen)
    run.event("reward-model", **figures)
    return run.save_model(model.save)


def length_balanced(run: Run, writer: DatasetWriter) -> Dataset:
    """The dataset of pairs, without those that would teach the reward model to pay for length."""
    longer = {key: len(row["chosen"]["content"]) - len(row["rejected"]["content"]) for key, row in writer.rows()}
    excess = too_often_longer(longer, run.seed)
    for key in excess:
        writer.drop(key, "dropped: for the balance of lengths")
    writer.count("kept", len(writer))
    return writer.finish(balance=balance_figures(writer))


def too_often_longer(longer: Mapping[str, int], seed: int) -> list[str]:
    """Which pairs to leave out so that as many have the longer answer chosen as rejected, by about as much.

    `longer` says by how much a pair's chosen answer is longer than its rejected one. Each pair of the rarer side, in
    random order, keeps the one of the other side whose difference is nearest to its own; the rest of those is left
    out. Pairs of equal lengths all stay.
    """
    above, below = [key for key, by in longer.items() if by > 0], [key for key, by in longer.items() if by < 0]
    rarer, others = sorted((above, below), key=len)
    others.sort(key=lambda key: abs(longer[key]))
    sizes = [abs(longer[key]) for key in others]
    for key in random.Random(f"balance/{seed}").sample(rarer, len(rarer)):
        place = nearest(sizes, abs(longer[key]))
        del others[place], sizes[place]
    return others


def nearest(ascending: Sequence[int], value: int) -> int:
    """The place of the number that is nearest to a value."""
    place = bisect_left(ascending, value)
    return min(range(max(0, place - 1), min(place + 1, len(ascending))), key=lambda i: abs(ascending[i] - value))


def balance_figures(writer: DatasetWriter) -> dict[str, float]:
    """Mean characters of the chosen and of the rejected answers."""
    sums: Counter[str] = Counter()
    for _, row in writer.rows():
        sums.update({side: len(row[side]["content"]) for side in ("chosen", "rejected")})
    return {f"mean_{side}_characters": sums[side] / max(1, len(writer)) for side in ("chosen", "rejected")}
