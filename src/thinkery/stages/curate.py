"""The large corpus (v1 §2.3.3): rejection samples of the reasoner plus general data, about three to one.

Reasoning: several samples a prompt, kept where right and readable, duplicates and exam questions dropped. General:
prompts with a reference answer; a thought stands before the answers that have one, none before "hello".
The teacher may also be any OpenAI-style endpoint, with a cap on what it may cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Completion, Message, Reward, Rollout, Sampling, Task
from thinkery.data.conversations import Conversation, to_row
from thinkery.data.decontaminate import Index
from thinkery.data.deduplicate import Deduplicator
from thinkery.data.keep import Readable
from thinkery.engine import Engine, EngineConfig
from thinkery.engine.http import HttpConfig, HttpEngine
from thinkery.errors import ConfigError
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.dataset import DatasetWriter, Shards
from thinkery.pipeline.record import rollout_row
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import (
    is_general,
    is_reasoning,
    open_model,
    reads_well,
    sample_chunks,
    spreading,
    templates_of,
)
from thinkery.stages.roles import Role, accuracy_of
from thinkery.tasks.templates import put_one

MILLION = 1_000_000
SPENT = "spent on the endpoint, in millionths"


class Curate(Config):
    """Settings of the corpus; the paper's has 600,000 reasoning and 200,000 general samples."""

    prompts: int = Field(default=150_000, ge=1)
    """Reasoning prompts asked."""
    samples: int = Field(default=8, ge=1)
    """Attempts at each ("several"; the number is not published)."""
    keep: int = Field(default=4, ge=1)
    """Most attempts kept of one prompt."""
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=32768)
    """How the teacher is sampled."""
    templates: tuple[str, ...] = ()
    """Other words to write the kept questions in, of which each draws one: sets such as `world-chat-practice`, or texts
    with `{question}`. The teacher is asked the question as it is."""
    readable: Readable = Readable()
    """What a thought must be like."""
    general: int = Field(default=200_000, ge=0)
    """Most general conversations."""
    judge: Role = Role()
    """Who compares answers with the reference where no rule can: an LLM endpoint or the model wired in as `judge`."""
    ngram: int = Field(default=10, ge=0)
    """Words in a row shared with an exam that drop a sample."""
    whole: tuple[str, ...] = Field(default=(), json_schema_extra={"key": "when set"})
    """Sources of which a sample is dropped only where an exam has the whole question, as in `problems.whole`."""
    endpoint: HttpConfig | None = None
    """An OpenAI-style API that teaches instead of the model wired in; its `max_cost` holds over all attempts."""
    engine: EngineConfig = EngineConfig()
    """The sampler."""
    chunk: int = Field(default=64, ge=1, json_schema_extra={"key": "when set"})
    """Prompts between two points from which a killed run continues."""
    shards: Shards = Field(default="jsonl", json_schema_extra={"key": "when set"})
    """What the corpus is written as: gzipped JSON lines, or "parquet" (`pip install 'thinkery[parquet]'`)."""


def curate(
    run: Run,
    cfg: Curate,
    tasks: Dataset,
    teacher: Model | None = None,
    general: Dataset | None = None,
    exam: Dataset | None = None,
    judge: Model | None = None,
) -> Dataset:
    """Write the corpus: conversations of right and readable samples, then the general ones."""
    writer = run.dataset(cfg.shards)
    index = Index.of(exam.tasks(), n=cfg.ngram) if exam else None
    with (
        spreading(cfg.engine) as spread,
        accuracy_of(cfg.judge, judge) as accuracy,
        teaching(cfg, teacher, writer) as engine,
    ):
        keep_reasoning(run, cfg, writer, tasks, engine, spread(right_and_readable(cfg, accuracy)), index)
    if general:
        keep_general(cfg, writer, general)
    return writer.finish()


def keep_reasoning(
    run: Run,
    cfg: Curate,
    writer: DatasetWriter,
    tasks: Dataset,
    engine: Engine,
    rubric: Rubric,
    index: Index | None = None,
) -> None:
    """Have the reasoning prompts answered, no more than a chunk at a time, and write what passes every filter."""
    total = min(cfg.prompts, sum(map(is_reasoning, tasks.tasks())))
    asked = islice(filter(is_reasoning, tasks.tasks()), total)
    templates = templates_of(cfg.templates)
    with paying(run, engine, writer) as pay:
        for key, groups in sample_chunks(
            run,
            engine,
            asked,
            cfg.sampling,
            rubric,
            writer,
            total=total,
            samples=cfg.samples,
            chunk=cfg.chunk,
        ):
            pay()  # before the rows: the chunk is in the record, and is not asked again
            for place, group in enumerate(groups):
                written = put_one(group.task, templates, run.seed) if templates else group.task
                keep_samples(cfg, writer, f"{key}/{place:04d}", written, group.rollouts, index)


@contextmanager
def paying(run: Run, engine: Engine, writer: DatasetWriter) -> Iterator[Callable[[], None]]:
    """What counts the cost so far; at the end also that of a chunk that did not become whole, so that a continued run
    keeps to the same budget."""
    paid = 0

    def pay() -> None:
        nonlocal paid
        if cost := cost_of(engine) - paid:
            paid += cost
            writer.count_now(SPENT, cost, f"spent/{run.attempt}/{paid}")

    try:
        yield pay
    finally:
        pay()


def right_and_readable(cfg: Curate, accuracy: Reward) -> Rubric:
    """What is asked of every sample before the filters that compare it with others."""
    return Rubric(accuracy=accuracy, readable=Part(reads_well(cfg.readable), weight=0))


@contextmanager
def teaching(cfg: Curate, teacher: Model | None, writer: DatasetWriter) -> Iterator[Engine]:
    """The teacher: the model wired in, or the endpoint with what is left of its budget."""
    if cfg.endpoint is None:
        if teacher is None:
            raise ConfigError(
                "nobody teaches", where="corpus", hint="wire a teacher in, or set endpoint.url and .model"
            )
        with open_model(cfg.engine, teacher) as engine:
            yield engine
        return
    spent = writer.funnel.get(SPENT, 0) / MILLION
    left = None if cfg.endpoint.max_cost is None else max(0.0, cfg.endpoint.max_cost - spent)
    engine = HttpEngine(cfg.endpoint.model_copy(update={"max_cost": left}))
    try:
        yield engine
    finally:
        engine.release()


def cost_of(engine: Engine) -> int:
    """What an endpoint has cost in this attempt, in millionths of its currency; 0 for a model of our own."""
    return round(engine.usage.cost * MILLION) if isinstance(engine, HttpEngine) else 0


def keep_samples(
    cfg: Curate, writer: DatasetWriter, key: str, task: Task, rollouts: tuple[Rollout, ...], index: Index | None
) -> None:
    """Write the first few attempts at one task that pass every filter; count what happens to each."""
    kept, seen = 0, Deduplicator()
    for rollout in rollouts:
        reason = why_not(cfg, rollout, index)
        if not reason and seen.duplicate_of(key, rollout.completion.text):
            reason = "duplicate"
        if not reason and kept == cfg.keep:
            reason = "enough of this prompt"
        if reason:
            writer.count(f"dropped: {reason}", source=task.source, example=rollout_row(0, rollout))
            continue
        kept += 1
        writer.count("kept: reasoning", source=task.source)
        writer.add(row_of(task, rollout.completion), f"{key}/{rollout.sample:04d}")


def why_not(cfg: Curate, rollout: Rollout, index: Index | None) -> str:
    """The first filter that drops an attempt, "" when all pass."""
    accuracy, readable = rollout.scores["accuracy"], rollout.scores["readable"]
    if accuracy.value is None:
        return "ungraded"
    if accuracy.value < 1:
        return "wrong"
    if not readable.value:
        return readable.reason
    task = rollout.task
    return "in the exam" if index and index.match_task(task, whole=task.source in cfg.whole) else ""


def keep_general(cfg: Curate, writer: DatasetWriter, general: Dataset) -> None:
    """Write general prompts with their reference answers, and the thoughts that came with them, if any."""
    answered = (task for task in general.tasks() if is_general(task) and task.gold)
    for place, task in enumerate(islice(answered, cfg.general)):
        writer.count("kept: general", source=task.source)
        thought = task.info.get("thought", "")
        answer = Completion(text="", thought=thought, answer=task.gold or "", closed=True)
        writer.add(row_of(task, answer), f"general/{place:08d}")


def row_of(task: Task, completion: Completion) -> dict:
    """A completion as a conversation to learn from."""
    answer = Message("assistant", completion.answer, completion.thought or "")
    return to_row(Conversation((*task.messages, answer), task.source, task.id, task.kind, task.language))
