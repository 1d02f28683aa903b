"""Tasks from packages that are not part of the core: the Hugging Face hub and Reasoning Gym."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from types import ModuleType

from thinkery.core import Task
from thinkery.errors import EnvironmentLacks, InputError
from thinkery.tasks.fields import Fields, infer_fields, to_task
from thinkery.tasks.files import Place

LOOK = 200
"""Rows that are looked at to infer the fields."""


def hub_tasks(name: str, subset: str, split: str, fields: Fields | None) -> Iterator[Task]:
    """Rows of a data set on the Hugging Face hub as tasks, the whole split as a stream."""
    rows = hub_rows(name, subset, split)
    seen = list(itertools.islice(rows, LOOK))
    mapping = fields or infer_fields([row for _, row in seen])
    for i, (where, row) in enumerate(itertools.chain(seen, rows)):
        yield to_task(row, mapping, id=f"{name}/{split}-{i}", where=where, source=name)


def hub_rows(name: str, subset: str, split: str) -> Iterator[Place]:
    """Rows of a data set on the Hugging Face hub (`pip install datasets`), the whole split as a stream."""
    datasets = _package("datasets")
    try:
        stream = iter(datasets.load_dataset(name, subset or None, split=split, streaming=True))
        first = list(itertools.islice(stream, 1))
    except Exception as error:  # the library raises its own, the hub's and the network's errors, without a common base
        hint = "check name, subset and split, and the connection; offline, download it first and use source = jsonl"
        found = f"{type(error).__name__}: {error}"
        raise InputError("the hub did not give it", where=f"{name}:{split}", found=found, hint=hint) from error
    for i, row in enumerate(itertools.chain(first, stream)):
        yield f"{name}:{split} row {i}", row


def gym_tasks(name: str, split: str, seed: int, count: int) -> Iterator[Task]:
    """Generated puzzles of Reasoning Gym (`pip install reasoning-gym`); another split draws from another seed.

    Answers are judged by exact match, not by the puzzle's own scorer: choose puzzles with one answer.
    """
    gym = _package("reasoning_gym")
    try:
        rows = gym.create_dataset(name, size=count, seed=seed + (0 if split == "train" else 1_000_003))
    except ValueError as error:
        raise InputError("no such puzzle", where="reasoning-gym", found=name, hint=str(error)) from error
    for i, row in enumerate(rows):
        yield Task(f"{name}/{split}-{i}", row["question"], "exact", str(row["answer"]), "en", "reasoning-gym")


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pip = name.replace("_", "-")
        raise EnvironmentLacks(f"the package {pip} is not installed", hint=f"pip install {pip}") from error
