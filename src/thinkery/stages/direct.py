"""Answers without thoughts: what a model is taught when it shall answer at once."""

from __future__ import annotations

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Message
from thinkery.data.conversations import Conversation, to_row
from thinkery.pipeline.artifact import Dataset
from thinkery.pipeline.run import Run
from thinkery.stages.common import is_reasoning


class Direct(Config):
    """Settings of the bare answers."""

    prompts: int = Field(default=150_000, ge=1)
    """Questions used at most."""


def bare_answers(run: Run, cfg: Direct, tasks: Dataset) -> Dataset:
    """Conversations of a question and its gold answer, nothing between."""
    writer = run.dataset()
    for task in [task for task in tasks.tasks() if is_reasoning(task) and task.gold][: cfg.prompts]:
        answer = Message("assistant", f"\\boxed{{{task.gold}}}")
        row = to_row(Conversation((*task.messages, answer), task.source, task.id, task.kind, task.language))
        writer.add(row, key=task.id)
    return writer.finish()
