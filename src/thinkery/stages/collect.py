"""Tasks become a dataset of their own: gold checked, exams kept apart, everything that is dropped counted."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Message, Task
from thinkery.data.decontaminate import Index
from thinkery.errors import InputError
from thinkery.pipeline.artifact import Dataset, task_to_row
from thinkery.pipeline.run import Run
from thinkery.rewards.lint import check_gold
from thinkery.tasks.sources import Source, load_tasks


class Collect(Config):
    """Which tasks, and how strictly they are kept apart from the exams."""

    sources: tuple[Source, ...] = ()
    """Where the tasks come from."""
    purpose: Literal["train", "exam"] = "train"
    """Exams may use evaluation sets; training data may not."""
    ngram: int = Field(default=10, ge=0)
    """Words in a row that, found in an exam as well, drop a task (R1 v2 §B.3.1: 10); 0 looks at exact matches only."""
    whole: tuple[str, ...] = Field(default=(), json_schema_extra={"key": "when set"})
    """Sources of which a task is dropped only where an exam has the whole of it, as with `ngram = 0`: reasoning-gym,
    whose puzzles of a kind share all words but their numbers."""


def collect(run: Run, cfg: Collect, exam: Dataset | None = None) -> Dataset:
    """Load the tasks, mix the sources, drop ungradable gold and whatever occurs in the exam, and write the rest.

    Who takes the first n of the result therefore takes some of every source. An exam asks nothing twice, since
    intervals over its questions would be too narrow; tasks that are drawn, of the world and of environments, may recur.
    """
    writer = run.dataset()
    tasks = load_tasks(cfg.sources, seed=run.seed, purpose=cfg.purpose)
    random.Random(run.seed).shuffle(tasks)
    writer.count("loaded", len(tasks))
    tasks, dropped = check_gold(tasks)
    for task, reason in dropped:
        writer.count(f"ungradable gold: {reason}", source=task.source, example=task_to_row(task))
    index = Index.of(exam.tasks(), n=cfg.ngram) if exam else None
    kept = 0
    asked: set[tuple[Message, ...]] = set()
    for number, task in enumerate(tasks):
        if cfg.purpose == "exam" and not is_drawn(task):
            if task.messages in asked:
                writer.count("repeated", source=task.source, example=task_to_row(task))
                continue
            asked.add(task.messages)
        if index and (match := index.match_task(task, whole=task.source in cfg.whole)):
            writer.count("in the exam", source=task.source, example=task_to_row(task))
            run.event("contaminated", task=task.id, exam=str(match))
            continue
        writer.add(task_to_row(task), key=f"{number:08d}")
        kept += 1
        writer.count("kept", source=task.source)
    if not kept:
        found = f"{len(tasks) + len(dropped)} loaded, {len(dropped)} without a gradable gold"
        found += f", {len(tasks)} in the exam" if tasks else ""
        raise InputError("no task is left", where=run.step, found=found, hint="another source, split or limit")
    return writer.finish()


collect.version = 4  # type: ignore[attr-defined]


def is_drawn(task: Task) -> bool:
    """Whether a task was made on demand, so that the same one may come up again by chance."""
    return bool(task.environment) or task.source.startswith("world/")
