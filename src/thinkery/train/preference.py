"""Reward models (R1 v2): a language model with one number on its last token.

The helpful model learns from pairs (Bradley-Terry: the chosen answer should score higher) and reads the final
answer only; the safety model learns from labels, response by response, and reads everything, thought included.

A row of pairs is {"messages": [...], "chosen": {...}, "rejected": {...}}, a labelled row {"messages": [...],
"label": 0 or 1} that ends with the assistant's turn.

Shapes: S sequences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from thinkery.config import Config
from thinkery.core import Message
from thinkery.errors import InputError
from thinkery.model.hf import accelerator
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.weights import read_headers
from thinkery.pipeline.run import Run
from thinkery.rewards.preference import Reads, RewardModel, reading
from thinkery.train.batch import Batch, Example, arrange, collate
from thinkery.train.held import require_memory
from thinkery.train.optim import Learner, LearnerConfig, resident_bytes
from thinkery.train.sft import batch_of, end_update


class RewardPolicy(LearnerConfig):
    """How a reward model's weights learn (R1: 6e-6)."""

    lr: float = Field(default=6e-6, ge=0)
    """Peak learning rate."""


class RewardModelConfig(Config):
    """Settings of reward-model training; the defaults are R1's."""

    policy: RewardPolicy = RewardPolicy()
    """How the weights learn."""
    loss: Literal["pairwise", "pointwise"] = "pairwise"
    """What the rows are: pairs of a chosen and a rejected answer, or single answers with a label."""
    reads: Reads = "answer"
    """What is judged: the final answer only (helpful), or everything, thought included (harmless)."""
    epochs: int = Field(default=1, ge=1)
    """Times that every row is seen."""
    batch: int = Field(default=256, ge=1)
    """Rows in one update."""
    max_tokens: int = 8192
    """Longest prompt and answer together; rows with a longer one are dropped and counted."""
    checkpoint_every: int = Field(default=200, ge=1, json_schema_extra={"key": False})
    """Updates between two checkpoints."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, the better one first."""

    chosen: Example
    rejected: Example


@dataclass(frozen=True, slots=True)
class Labelled:
    """One answer and whether it is good (1.0) or not (0.0)."""

    example: Example
    label: float


def open_reward_model(folder: Path, cfg: RewardModelConfig) -> RewardModel:
    """A reward model that begins with the weights of a language model's folder, ready to learn, on the accelerator
    where there is one.

    Raises EnvironmentLacks, before anything is loaded, where not even its weights, gradients and moments fit.
    """
    stored = read_headers(folder)
    learnt = sum(tensor.numel() for name, tensor in stored.items() if name != "lm_head.weight")  # its own head is small
    require_memory(learnt, cfg.policy, where=str(folder))
    return RewardModel.start(folder).to(accelerator())


def train_reward_model(
    run: Run,
    cfg: RewardModelConfig,
    model: RewardModel,
    rows: Iterable[Mapping[str, Any]],
    *,
    held_out: Iterable[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Train on the rows; continues from the newest checkpoint, bit for bit. Returns `eval/accuracy` and more.

    `eval/accuracy` is the share of held-out pairs in order, or of held-out labels that the sign of the score gives.
    """
    learner = Learner(model, cfg.policy)
    if latest := run.latest():
        learner.load(latest[1])
    items, unseen = readable(run, cfg, model.tokenizer, rows), readable(run, cfg, model.tokenizer, held_out)
    if not items:
        raise InputError("no row is left to train on", hint="raise max_tokens or check the dataset")
    per_epoch = -(-len(items) // cfg.batch)
    total = cfg.epochs * per_epoch
    while learner.updates < total:
        started = time.perf_counter()
        chosen = batch_of(items, learner.updates, per_epoch, cfg.batch, run.seed)
        update = learner.update(packing(chosen, learner.device), objective(model, len(chosen), cfg.policy), total=total)
        metrics = update.metrics | {
            "preference/accuracy": update.sums["right"] / len(chosen),
            "time/step": time.perf_counter() - started,
            "perf/rss": resident_bytes(),
        }
        step = learner.updates
        if step == total and unseen:
            metrics["eval/accuracy"] = accuracy(model, unseen, learner.micro_batch_tokens, cfg.policy)
        run.metrics(step, metrics)
        run.progress(step, total, acc=metrics["preference/accuracy"], loss=update.loss)
        end_update(run, learner, update, total, cfg.checkpoint_every)
    found: dict[str, float] = {}
    for name, judging in (("train", items), ("eval", unseen)):
        if judging:
            found[f"{name}/rows"] = float(len(judging))
            found[f"{name}/accuracy"] = accuracy(model, judging, learner.micro_batch_tokens, cfg.policy)
    return found


def readable(
    run: Run, cfg: RewardModelConfig, tokenizer: Tokenizer, rows: Iterable[Mapping[str, Any]]
) -> list[Pair | Labelled]:
    """The rows as sequences, without those that are too long, which are reported."""
    found: list[Pair | Labelled] = []
    too_long = 0
    for row in rows:
        item = as_pair(tokenizer, row, cfg.reads) if cfg.loss == "pairwise" else as_labelled(tokenizer, row, cfg.reads)
        if max(len(e.tokens) for e in examples_of(item)) > cfg.max_tokens:
            too_long += 1
        else:
            found.append(item)
    if too_long:
        run.event("dropped", reason=f"longer than max_tokens = {cfg.max_tokens}", rows=too_long)
    return found


def as_pair(tokenizer: Tokenizer, row: Mapping[str, Any], reads: Reads) -> Pair:
    """A row of pairs."""
    before = [message(m) for m in row["messages"]]
    return Pair(*(example(tokenizer, before, message(row[side]), reads) for side in ("chosen", "rejected")))


def as_labelled(tokenizer: Tokenizer, row: Mapping[str, Any], reads: Reads) -> Labelled:
    """A labelled row."""
    *before, said = (message(m) for m in row["messages"])
    return Labelled(example(tokenizer, before, said, reads), float(row["label"]))


def example(tokenizer: Tokenizer, before: Sequence[Message], said: Message, reads: Reads) -> Example:
    """What the model reads, as a sequence of which no token is predicted."""
    tokens = np.array(reading(tokenizer, before, said, reads), dtype=np.int32)
    return Example(tokens, learn_from=len(tokens))


def message(row: Mapping[str, Any]) -> Message:
    """A turn from its JSON."""
    return Message(row["role"], row["content"], row.get("thought"))


def examples_of(item: Pair | Labelled) -> tuple[Example, ...]:
    """The sequences of an item."""
    return (item.chosen, item.rejected) if isinstance(item, Pair) else (item.example,)


def packing(
    items: Sequence[Pair | Labelled], device: torch.device
) -> Callable[[int], list[tuple[Batch, list[Pair | Labelled]]]]:
    """A function from a token limit to micro-batches, each with its items; a pair is never parted."""

    def pack_items(max_tokens: int) -> list[tuple[Batch, list[Pair | Labelled]]]:
        sizes = [sum(len(e.tokens) for e in examples_of(item)) for item in items]
        found = []
        for places in arrange(sizes, max_tokens):
            shared = [items[i] for i in places]
            columns = zip(*(examples_of(item) for item in shared), strict=True)  # all chosen, then all rejected
            examples = [example for column in columns for example in column]
            found.append((collate(examples, [[i] for i in range(len(examples))], device), shared))
        return found

    return pack_items


def objective(
    model: RewardModel, count: int, cfg: LearnerConfig
) -> Callable[[tuple[Batch, list[Pair | Labelled]]], tuple[Tensor, Mapping[str, Tensor]]]:
    """The mean loss over the update's `count` items, and how many of them came out right."""

    def preference_objective(packed: tuple[Batch, list[Pair | Labelled]]) -> tuple[Tensor, Mapping[str, Tensor]]:
        batch, items = packed
        margins, targets = judged(scored(model, batch, cfg), items)
        loss = F.binary_cross_entropy_with_logits(margins, targets, reduction="sum") / count
        return loss, {"right": right(margins.detach(), targets).sum()}

    return preference_objective


def scored(model: RewardModel, batch: Batch, cfg: LearnerConfig) -> Tensor:
    """scores_S of a micro-batch, in the arithmetic that the settings ask for."""
    with torch.autocast(batch.tokens_T.device.type, torch.bfloat16, enabled=cfg.dtype == "bfloat16"):
        return model(batch.tokens_T, batch.lengths)


def judged(scores_S: Tensor, items: Sequence[Pair | Labelled]) -> tuple[Tensor, Tensor]:
    """(margins, targets) of items: chosen minus rejected, which should be positive, or score and label.

    Bradley-Terry's -log sigmoid(chosen - rejected) is the binary cross-entropy of the margin with target 1.
    """
    if isinstance(items[0], Pair):
        chosen, rejected = scores_S.chunk(2)
        return chosen - rejected, torch.ones_like(chosen)
    return scores_S, torch.tensor([item.label for item in items if isinstance(item, Labelled)], device=scores_S.device)


def right(margins: Tensor, targets: Tensor) -> Tensor:
    """1 where the sign agrees with the target, ½ at exactly 0."""
    return torch.where(margins == 0, 0.5, ((margins > 0) == (targets > 0.5)).float())


@torch.no_grad()
def accuracy(model: RewardModel, items: Sequence[Pair | Labelled], max_tokens: int, cfg: LearnerConfig) -> float:
    """The share of pairs in order, or of labels that the sign of the score gives."""
    total = 0.0
    for batch, shared in packing(items, model.score.weight.device)(max_tokens):
        total += float(right(*judged(scored(model, batch, cfg), shared)).sum())
    return total / len(items)
