"""Tasks that need a package which is not part of the core: the Hugging Face hub's."""

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
    datasets = package("datasets")
    try:
        stream = iter(datasets.load_dataset(name, subset or None, split=split, streaming=True))
        first = list(itertools.islice(stream, 1))
    except Exception as error:  # the library raises its own, the hub's and the network's errors, without a common base
        hint = "check name, subset and split, and the connection; offline, download it first and use source = jsonl"
        found = f"{type(error).__name__}: {error}"
        raise InputError("the hub did not give it", where=f"{name}:{split}", found=found, hint=hint) from error
    for i, row in enumerate(itertools.chain(first, stream)):
        yield f"{name}:{split} row {i}", row


def package(name: str) -> ModuleType:
    """A package that is not part of the core; EnvironmentLacks says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pip = name.partition(".")[0].replace("_", "-")
        raise EnvironmentLacks(f"the package {pip} is not installed", hint=f"pip install {pip}") from error
