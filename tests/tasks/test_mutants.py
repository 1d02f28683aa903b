from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinkery.core import Task
from thinkery.sandbox import Asserts, Pool, Program, run_tests
from thinkery.tasks.mutants import Original, mbpp_originals, mutant_of, mutants, mutations

DATA = Path(os.environ.get("THINKERY_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not (DATA / "mbpp").is_dir(), reason="needs THINKERY_DATA")
AREA = Original("area", "Return the area.", "def area(a, b):\n    return a * b\n", "", ("assert area(2, 3) == 6",))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    with Pool(workers=2) as pool:
        yield pool


def verdict(task: Task, files: dict[str, str], pool: Pool) -> str:
    return run_tests(Program(files=files), [Asserts(task.info["test"])], pool).verdict


def test_mistakes_are_single_different_and_valid() -> None:
    source = (
        "def f(xs, n):\n    total = 0\n    for i in range(n):\n        if xs[i] > 1 and xs:\n"
        "            total += pow(i, 2)\n    return total\n"
    )
    made = list(mutations(source))
    sources = [text for _, text in made]
    assert len(set(sources)) == len(sources)
    assert source not in sources
    wanted = ("range(n - 1)", "range(n + 1)", "xs[i] >= 1", "or xs", "total -= ", "pow(2, i)", "total = 1", "not (")
    assert all(any(part in text for text in sources) for part in wanted)
    assert {what for what, _ in made} >= {"off by one", "comparison", "operator", "swapped arguments", "constant"}
    for text in sources:
        compile(text, "mutant", "exec")


def test_a_task_shows_one_failing_call_and_hides_its_tests(pool: Pool) -> None:
    task = mutant_of(AREA, 0, pool)
    assert task is not None
    assert task.kind == "software"
    assert task.info["files"] == {"area.py": "def area(a, b):\n    return a + b\n"}
    assert "assert area(2, 3) == 6" in task.prompt
    assert "def test_1" not in task.prompt
    assert verdict(task, {"area.py": task.info["solution"]}, pool) == "pass"


def test_functions_that_fail_their_own_tests_or_hide_every_mistake_make_no_task(pool: Pool) -> None:
    wrong = Original("area", "?", "def area(a, b):\n    return a - b\n", "", AREA.tests)
    assert mutant_of(wrong, 0, pool) is None
    blind = Original("area", "?", AREA.source, "", ("assert area(0, 0) == 0",))
    assert mutant_of(blind, 0, pool) is None  # 0 + 0 is right too


@needs_data
def test_originals_are_in_no_evaluation_set() -> None:
    with gzip.open(DATA / "mbpp" / "sanitized-mbpp.json.gz", "rt") as file:
        exams = {row["task_id"] for row in json.load(file)}
    ids = {int(original.id.removeprefix("mbpp-")) for original in mbpp_originals()}
    assert len(ids) == 251
    assert min(ids) >= 601
    assert not ids & exams


@needs_data
def test_a_hundred_tasks_are_made_and_proven(pool: Pool) -> None:
    tasks = list(mutants(seed=3, limit=115, pool=pool))
    assert len(tasks) >= 100
    assert len({task.id for task in tasks}) == len(tasks)
    for task in tasks[::10]:
        (path,) = task.info["files"]
        assert verdict(task, task.info["files"], pool) in ("wrong", "error")
        assert verdict(task, {path: task.info["solution"]}, pool) == "pass"
