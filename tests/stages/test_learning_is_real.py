"""The claims hold because something is learnt: with shuffled gold answers the same training makes them fail."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thinkery.pipeline.artifact import task_to_row
from thinkery.tasks.sources import Source, load_tasks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RECIPE = """
extends = "tiny"
[exam]
sources = [{{ source = "world", split = "held-out", limit = 200 }}]
[problems]
sources = [{{ source = "jsonl", path = "{path}" }}]
[zero.grpo]
updates = 40
eval_every = 0
"""


def verdicts(folder: Path, tasks: list) -> dict[str, bool]:
    """Train zero on these tasks in a process of its own; which claims hold on the exam, whose gold is untouched."""
    folder.mkdir()
    data = folder / "tasks.jsonl"
    data.write_text("".join(json.dumps(task_to_row(task)) + "\n" for task in tasks))
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(path=data))
    only = [w for s in ("base", "exam", "problems", "zero", "eval-base", "eval-zero") for w in ("--only", s)]
    environ = os.environ | {"HF_HUB_OFFLINE": "1"}
    thinkery = [sys.executable, "-m", "thinkery.cli"]
    run = str(folder / "run")
    subprocess.run([*thinkery, "run", str(recipe), "--dir", run, *only], env=environ, check=True, capture_output=True)
    report = subprocess.run([*thinkery, "report", run, "--json"], env=environ, check=True, capture_output=True)
    return {claim["id"]: claim["holds"] for claim in json.loads(report.stdout)["claims"]}


def shuffled(tasks: list) -> list:
    """The same questions with each other's answers, kind by kind, so that every answer stays gradable."""
    rng = random.Random(0)
    made = []
    for kind in sorted({task.kind for task in tasks}):
        some = [task for task in tasks if task.kind == kind]
        golds = rng.sample([task.gold for task in some], len(some))
        made += [replace(task, gold=gold) for task, gold in zip(some, golds, strict=True)]
    return made


def test_zero_multiplies_with_true_answers_and_not_with_shuffled_ones(tmp_path: Path) -> None:
    tasks = load_tasks([Source(source="world", limit=3000)], seed=0)
    assert verdicts(tmp_path / "true", tasks)["zero-multiplies"]
    assert not verdicts(tmp_path / "shuffled", shuffled(tasks))["zero-multiplies"]
