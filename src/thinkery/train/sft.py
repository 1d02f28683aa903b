"""Supervised fine-tuning on conversations (R1 stages 1 and 3, distillation) and pretraining on documents.

A row {"messages": [...]} teaches the last assistant turn; a row {"text": "..."} teaches every token. Sequences
share a micro-batch without seeing each other, and the end-of-sequence token always carries loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import Field
from torch import Tensor

from thinkery.chat import turn_end
from thinkery.config import Config
from thinkery.core import Message
from thinkery.errors import InputError
from thinkery.model.tokenizer import EOS_HINT, Tokenizer
from thinkery.pipeline.run import Run
from thinkery.train.alarms import LOWER
from thinkery.train.batch import Batch, Example, pack
from thinkery.train.optim import Learner, PolicyConfig, Update, resident_bytes
from thinkery.train.policy import Policy

T = TypeVar("T")


class SftPolicy(PolicyConfig):
    """How weights learn from examples: R1's cosine from 5e-5 to a tenth of it."""

    lr: float = Field(default=5e-5, ge=0)
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """What the learning rate does after warm-up."""


class Sft(Config):
    """Settings of supervised training; the defaults are R1's."""

    policy: SftPolicy = SftPolicy()
    """How the weights learn."""
    epochs: int = Field(default=2, ge=1)
    """Times that every sequence is seen (R1: 2 to 3)."""
    batch: int = Field(default=128, ge=1)
    """Sequences in one update."""
    max_tokens: int = 32768
    """Longest sequence; longer conversations are dropped and counted, longer documents are cut into pieces."""
    eval_every: int = Field(default=0, json_schema_extra={"key": False})
    """Updates between two measurements of the loss on held-out rows; 0 measures at the end only."""
    checkpoint_every: int = Field(default=200, ge=1, json_schema_extra={"key": False})
    """Updates between two checkpoints."""


def sft(
    run: Run,
    cfg: Sft,
    policy: Policy,
    rows: Iterable[Mapping[str, Any]],
    *,
    held_out: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Train the policy on the rows; continues from the run's newest checkpoint, bit for bit."""
    if latest := run.latest():
        policy.load(latest[1])
    else:
        compare_ends(run, policy.tokenizer)
    if longest := policy.network.longest:
        cfg = cfg.model_copy(update={"max_tokens": min(cfg.max_tokens, longest)})
    examples = load_examples(run, cfg, policy.tokenizer, rows)
    unseen = load_examples(run, cfg, policy.tokenizer, held_out, required=False) if held_out else []
    per_epoch = -(-len(examples) // cfg.batch)
    total = cfg.epochs * per_epoch
    while policy.updates < total:
        started = time.perf_counter()
        chosen = batch_of(examples, policy.updates, per_epoch, cfg.batch, run.seed)
        learnt = sum(e.learnt for e in chosen)
        update = policy.update(partial(pack, chosen, device=policy.device), cross_entropy(policy, learnt), total=total)
        seconds = time.perf_counter() - started
        flops = policy.learning_flops()
        metrics = update.metrics | {
            "time/step": seconds,
            "perf/tokens_per_s": sum(len(e.tokens) for e in chosen) / seconds,
            "perf/flops": flops,
            "perf/mfu": policy.utilisation(flops, seconds),
            "perf/rss": resident_bytes(),
        }
        step = policy.updates
        if unseen and (step == total or (cfg.eval_every and step % cfg.eval_every == 0)):
            metrics["eval/loss"] = held_out_loss(policy, unseen)
        run.metrics(step, metrics)
        run.progress(step, total, loss=update.loss, lr=update.lr, tok_s=metrics["perf/tokens_per_s"])
        end_update(run, policy, update, total, cfg.checkpoint_every)


def end_update(run: Run, learner: Learner, update: Update, total: int, checkpoint_every: int) -> None:
    """How an update ends: with an alarm where it was skipped, a checkpoint where it is time, and a stop where asked."""
    step, ringing = learner.updates, ["non-finite"] if update.skipped else []
    if update.skipped:
        run.alarm("non-finite", f"update {step} had no finite loss and was skipped", "policy.lr", LOWER)
    if run.stopping or step == total or step % checkpoint_every == 0:
        run.checkpoint(step, learner.save, ringing)
    if run.stopping and step < total:
        run.stop()


def compare_ends(run: Run, tokenizer: Tokenizer) -> None:
    """Ring where the turns of a conversation end otherwise than what is learnt, which serving and users would meet."""
    end = turn_end(tokenizer.template, eos=tokenizer.eos, bos=tokenizer.bos) if tokenizer.template else ""
    if end and not end.lstrip().startswith(tokenizer.eos):
        seen = f"an answer is learnt to end with {tokenizer.eos!r}, the template ends earlier ones with {end[:16]!r}"
        run.alarm("template", seen, "template", f"{EOS_HINT}, or give that template this end")


def load_examples(
    run: Run, cfg: Sft, tokenizer: Tokenizer, rows: Iterable[Mapping[str, Any]], *, required: bool = True
) -> list[Example]:
    """All rows as token sequences; reports conversations that are too long, and refuses to go on with none where any
    are `required`."""
    examples: list[Example] = []
    too_long = 0
    for number, row in enumerate(rows):
        if "text" in row:
            examples += document(tokenizer, row["text"], cfg.max_tokens)
            continue
        example = conversation(tokenizer, row, number)
        if len(example.tokens) > cfg.max_tokens:
            too_long += 1
        else:
            examples.append(example)
    if too_long:
        run.event("dropped", reason=f"longer than max_tokens = {cfg.max_tokens}", rows=too_long)
    if required and not examples:
        raise InputError(
            "no row is left to train on",
            found=f"{too_long} rows longer than {cfg.max_tokens} tokens",
            hint="raise sft.max_tokens or check the dataset",
        )
    return examples


def conversation(tokenizer: Tokenizer, row: Mapping[str, Any], number: int = 0) -> Example:
    """The last assistant turn as what is learnt, everything before it as what is given."""
    messages = [Message(**{k: m[k] for k in ("role", "content", "thought") if k in m}) for m in row["messages"]]
    prompt, target = tokenizer.conversation(messages)
    if not target or target[-1] not in tokenizer.eos_ids:
        raise InputError(
            "the answer does not end with the end-of-sequence token, so the model would never learn to stop",
            where=f"row {number}",
            found=repr(tokenizer.backend.decode(target[-8:], skip_special_tokens=False)),
            hint="set eos_token of tokenizer_config.json to one token of the vocabulary",
        )
    return Example(np.array(prompt + target, dtype=np.int32), learn_from=max(1, len(prompt)))


def document(tokenizer: Tokenizer, text: str, max_tokens: int) -> list[Example]:
    """A text between its begin (where the tokenizer has one) and its end, in pieces; every token is learnt."""
    tokens = np.array([*tokenizer.encode(tokenizer.bos + text), tokenizer.eos_id], dtype=np.int32)
    step = max(1, max_tokens - 1)  # a piece begins with the last token of the one before, which predicts its next
    return [Example(tokens[i : i + step + 1]) for i in range(0, len(tokens) - 1, step)]


def batch_of(items: Sequence[T], update: int, per_epoch: int, size: int, seed: int) -> list[T]:
    """The items of one update; each epoch is a new shuffle that depends on the seed and the epoch alone."""
    epoch, place = divmod(update, per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(len(items))
    return [items[i] for i in order[place * size : (place + 1) * size]]


def cross_entropy(policy: Policy, learnt: int) -> Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]:
    """The objective: mean negative log-probability over the update's `learnt` tokens."""

    def objective(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return -policy.forward(batch)[0].sum() / learnt, {}

    return objective


def held_out_loss(policy: Policy, examples: Sequence[Example]) -> float:
    """Mean negative log-probability of the learnt tokens of rows that are not trained on."""
    logprobs = policy.logprobs(examples)
    return -sum(sum(part) for part in logprobs) / sum(e.learnt for e in examples)
