"""Cold-start data (R1 v2 §B.3.2): zero's own thoughts, kept where right and readable, rewritten for people.

The editor sees the question and the sample and nothing else. What it writes is judged again by the same rules:
a rewrite that lost the answer, the format or the language is dropped and counted. The change is kept as a diff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Completion, Group, Message, Rollout, Sampling, Task
from thinkery.data.conversations import Conversation, to_row
from thinkery.data.keep import Readable, readable, right
from thinkery.data.rewrite import diff
from thinkery.engine import EngineConfig
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.dataset import DatasetWriter
from thinkery.pipeline.record import rollout_row
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import open_model, reads_well, sample_chunks, spreading
from thinkery.stages.roles import Edit, Editor, editor_of


class ColdData(Config):
    """Settings of the cold-start data."""

    prompts: int = Field(default=4000, ge=1)
    """Questions asked ("thousands"; the number is not published)."""
    samples: int = Field(default=4, ge=1)
    """Attempts at each question."""
    keep: int = Field(default=1, ge=1)
    """Most attempts kept of one question."""
    sampling: Sampling = Sampling(temperature=1.0, max_tokens=32768)
    """How zero is sampled (T = 1)."""
    examples: str = ""
    """Worked examples put before zero's prompt (few-shot prompting, v1 §2.3.1), as text."""
    worth_editing: Readable = Readable(language=0.0)
    """What a sample must be like to be rewritten; mixed languages can be mended."""
    readable: Readable = Readable()
    """What a rewritten thought must be like."""
    editor: Editor = Editor()
    """Who rewrites: the world's fixed rules, an LLM endpoint, the model wired in as `editor`, or nobody."""
    engine: EngineConfig = EngineConfig()
    """The sampler."""
    chunk: int = Field(default=64, ge=1, json_schema_extra={"key": "when set"})
    """Questions between two points from which a killed run continues."""


def cold_data(run: Run, cfg: ColdData, teacher: Model, tasks: Dataset, editor: Model | None = None) -> Dataset:
    """Sample zero, keep what is right and readable, let the editor rewrite it, and judge the result again."""
    asked = list(tasks.tasks())[: cfg.prompts]
    writer = run.dataset()
    with (
        spreading(cfg.engine) as spread,
        editor_of(cfg.editor, editor) as edit,
        open_model(cfg.engine, teacher, examples=cfg.examples) as engine,
    ):
        rubric = spread(Rubric(accuracy=accuracy, readable=Part(reads_well(cfg.worth_editing), weight=0)))
        for key, groups in sample_chunks(
            run, engine, asked, cfg.sampling, rubric, writer, total=len(asked), samples=cfg.samples, chunk=cfg.chunk
        ):
            drafts = [rollout for group in groups for rollout in worth_editing(cfg, group, writer)]
            for number, rewritten in enumerate(edited(cfg, drafts, edit, writer)):
                writer.add(rewritten, f"{key}/{number:04d}")
    return writer.finish()


def worth_editing(cfg: ColdData, group: Group, writer: DatasetWriter) -> list[Rollout]:
    """The first few right and readable attempts at one question, the shortest thoughts first."""
    source = group.task.source
    writer.count("generated", len(group.rollouts), source=source)
    kept = []
    for rollout in group.rollouts:
        if reason := not_worth_editing(rollout):
            writer.count(f"dropped: {reason}", source=source, example=rollout_row(0, rollout))
        else:
            kept.append(rollout)
    writer.count("right and readable", len(kept), source=source)
    return sorted(kept, key=lambda r: len(r.completion.tokens))[: cfg.keep]


def not_worth_editing(rollout: Rollout) -> str:
    """Why an attempt is not rewritten; "" when it is right, readable and has a thought."""
    readable = rollout.scores["readable"]
    return (
        right(rollout)
        or ("" if readable.value else readable.reason)
        or ("" if rollout.completion.thought else "no thought")
    )


def edited(cfg: ColdData, drafts: Sequence[Rollout], edit: Edit, writer: DatasetWriter) -> list[dict]:
    """What the editor makes of the drafts, as far as it stands up to being judged again."""
    said = [(r.task.prompt, r.completion.thought or "", r.completion.answer, r.task.language or "") for r in drafts]
    rows = []
    for rollout, result in zip(drafts, edit(said), strict=True):
        source = rollout.task.source
        if result is None:
            writer.count("dropped: the editor failed", source=source, example=rollout_row(0, rollout))
            continue
        text = f"<think>\n{result.thought}\n</think>\n\n{result.answer}"
        completion = Completion(text, thought=result.thought, answer=result.answer, closed=True)
        if reason := why_not(cfg, rollout.task, completion):
            rewritten = rollout_row(0, replace(rollout, completion=completion))
            writer.count(f"dropped after editing: {reason}", source=source, example=rewritten)
            continue
        writer.count("kept", source=source)
        rows.append(row_of(rollout, completion))
    return rows


def why_not(cfg: ColdData, task: Task, completion: Completion) -> str:
    """Why a rewritten sample cannot be used; "" when it can."""
    ((scores, _),) = Rubric(accuracy=accuracy, format=thinks).judge([(task, completion)])
    judged = Rollout(task, (), completion, scores)
    return right(judged) or right(judged, "format") or readable(judged, cfg.readable) or ""


def row_of(rollout: Rollout, completion: Completion) -> dict:
    """The rewritten sample as a conversation, with the diff of what the editor changed."""
    before = rollout.completion
    meta = {"diff": diff(f"{before.thought}\n{before.answer}", f"{completion.thought}\n{completion.answer}")}
    answer = Message("assistant", completion.answer, completion.thought)
    task = rollout.task
    return to_row(Conversation((*task.messages, answer), task.source, task.id, task.kind, task.language, meta))
