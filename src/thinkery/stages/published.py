"""Preference data that others have published, in place of the model's own answers and a judge.

The rows are those that `compare_answers` and `label_safety` write, so reward models train on either. Use it where no
judge is at hand that is better than the model itself.

hh-harmless is also what safety is evaluated with: only its half for learning is read here (`tasks/public.py` has the
rule), and what shares ten words with a prompt of the other half is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal

from thinkery.config import Config
from thinkery.core import Completion
from thinkery.data.decontaminate import Index
from thinkery.pipeline.artifact import Dataset, task_to_row
from thinkery.pipeline.dataset import DatasetWriter
from thinkery.pipeline.run import Run
from thinkery.stages.preference import length_balanced, turn_row
from thinkery.tasks.public import HARMLESS_SPLIT, Preferred, general, preferences


class Published(Config):
    """Settings shared by both kinds of published data."""

    source: Literal["dpo-demo", "hh-harmless"]
    """Which data."""
    limit: int | None = None
    """At most so many rows; None takes all there are."""
    max_characters: int | None = None
    """Longest conversation with its longer answer; None takes any."""


class PublishedPairs(Published):
    """Settings of published preference pairs."""

    source: Literal["dpo-demo"] = "dpo-demo"
    """`dpo-demo`: 300 pairs of answers whose helpfulness a large model compared."""


class PublishedLabels(Published):
    """Settings of published safety labels."""

    source: Literal["hh-harmless"] = "hh-harmless"
    """`hh-harmless`: people chose the less harmful of two answers (offensive text); the chosen one is taken as safe
    and the other as unsafe, a looser label than R1's."""


def published_pairs(run: Run, cfg: PublishedPairs) -> Dataset:
    """Rows {messages, chosen, rejected, task} as `compare_answers` writes them, without verdicts; lengths balanced."""
    writer = run.dataset()
    for number, row in enumerate(pair_rows(cfg)):
        writer.count("pairs")
        writer.add(row, f"{number:08d}")
    return length_balanced(run, writer)


published_pairs.version = 2  # type: ignore[attr-defined]


def published_labels(run: Run, cfg: PublishedLabels) -> Dataset:
    """Rows {messages, label, task} as `label_safety` writes them: of every pair the chosen answer, then the other.

    The manifest's `meta` says by which rule the source was split.
    """
    writer = run.dataset()
    for number, row in enumerate(label_rows(cfg, writer)):
        writer.count("safe" if row["label"] else "unsafe")
        writer.add(row, f"{number:08d}")
    return writer.finish(split=HARMLESS_SPLIT)


published_labels.version = 2  # type: ignore[attr-defined]


def pair_rows(cfg: Published) -> Iterator[dict[str, Any]]:
    """The pairs as rows, from the first that fits to the limit."""
    for task, chosen, rejected in islice(fitting(cfg), cfg.limit):
        yield {
            "messages": [asdict(message) for message in task.messages],
            "chosen": turn_row(Completion(chosen, answer=chosen)),
            "rejected": turn_row(Completion(rejected, answer=rejected)),
            "task": task_to_row(task),
        }


def label_rows(cfg: Published, writer: DatasetWriter) -> Iterator[dict[str, Any]]:
    """The answers of the pairs as labelled rows, from the first that fits to the limit."""
    pairs = kept_apart(fitting(cfg), writer)
    labelled = ((task, said, label) for task, *pair in pairs for said, label in zip(pair, (1, 0), strict=True))
    for task, said, label in islice(labelled, cfg.limit):
        messages = [*(asdict(message) for message in task.messages), turn_row(Completion(said, answer=said))]
        yield {"messages": messages, "label": label, "task": task_to_row(task)}


def fitting(cfg: Published) -> Iterator[Preferred]:
    """The source's pairs that are not too long."""
    for task, chosen, rejected in preferences(cfg.source):
        length = sum(len(message.content) for message in task.messages) + max(len(chosen), len(rejected))
        if cfg.max_characters is None or length <= cfg.max_characters:
            yield task, chosen, rejected


def kept_apart(pairs: Iterable[Preferred], writer: DatasetWriter) -> Iterator[Preferred]:
    """The pairs of which no question shares ten words with a prompt of the half for evaluation."""
    exam = Index.of(general("test"))
    for pair in pairs:
        if any(exam.match(message.content) for message in pair[0].messages if message.role == "user"):
            writer.count("dropped: shares ten words with the evaluation half")
        else:
            yield pair
