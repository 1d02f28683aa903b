from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator

import pytest

from thinkery.core import Completion, Score, Task
from thinkery.rewards.patch import PatchFailed, apply_patch
from thinkery.rewards.software import SoftwareTests, changed_files
from thinkery.sandbox import Pool

TOTALS = (
    "def total(prices):\n    return sum(prices) - 1\n\n\ndef mean(prices):\n    return total(prices) / len(prices)\n"
)
FIXED = TOTALS.replace(" - 1", "")
FILES = {"bag/__init__.py": "", "bag/totals.py": TOTALS}
TESTS = (
    "from bag.totals import mean, total\n"
    "def test_total():\n    assert total([1, 2]) == 3\n"
    "def test_mean():\n    assert mean([1, 3]) == 2\n"
)
TASK = Task("t", "The total is one too low.", "software", info={"files": FILES, "test": TESTS})
DIFF = "".join(
    difflib.unified_diff(TOTALS.splitlines(True), FIXED.splitlines(True), "a/bag/totals.py", "b/bag/totals.py")
)


@pytest.fixture(scope="module")
def reward() -> Iterator[SoftwareTests]:
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    with Pool(workers=1) as pool:
        yield SoftwareTests(pool)


def answered(text: str) -> Completion:
    return Completion(text, answer=text)


@pytest.mark.parametrize(
    "answer",
    [
        f"The sum is off.\n```diff\n{DIFF}```\n",
        f"```\n{DIFF}```",
        f"```python bag/totals.py\n{FIXED}```",
        f"```python path=bag/totals.py\n{FIXED}```",
        f"```bag/totals.py\n{FIXED}```\nand\n```python bag/other.py\nx = 1\n```",
    ],
)
def test_a_repair_in_any_form_earns_1(reward: SoftwareTests, answer: str) -> None:
    assert reward(TASK, answered(answer)) == Score(1.0, "every hidden test passed")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I would subtract nothing.", "no diff and no file"),
        (f"```python bag/totals.py\n{TOTALS}```", "wrong: test 1: not so: assert total"),
        ("```python bag/totals.py\nimport os; os._exit(0)\n```", "error: test 1: the program ended"),
        ("```python tests.py\ndef test_total(): pass\n```", "wrong"),
        (f"```diff\n{DIFF.replace('sum(prices)', 'add(prices)')}```", "hunk 1 does not fit bag/totals.py"),
        (f"```diff\n{DIFF.replace('bag/totals', 'bag/missing')}```", "bag/missing.py does not exist"),
        ("```python ../x.py\nx = 1\n```", "leaves the repository"),
        ("```python math.py\nx = 1\n```", "would replace a module of the standard library"),
        ("```python /tmp/x.py\nx = 1\n```", "leaves the repository"),
    ],
)
def test_anything_else_earns_0_and_says_why(reward: SoftwareTests, answer: str, reason: str) -> None:
    score = reward(TASK, answered(answer))
    assert score.value == 0.0
    assert reason in score.reason


def test_a_task_without_tests_or_with_broken_ones_is_ungraded(reward: SoftwareTests) -> None:
    for info in ({}, {"files": FILES}, {"files": FILES, "test": "assert ("}):
        assert reward(Task("t", "?", "software", info=info), answered(f"```diff\n{DIFF}```")).value is None


def test_a_repository_of_one_file_takes_a_block_without_a_path() -> None:
    assert changed_files({"a.py": "x = 1\n"}, "```python\nx = 2\n```") == {"a.py": "x = 2\n"}


def test_a_patch_finds_its_place_although_its_line_numbers_are_wrong() -> None:
    text = "".join(f"{i}\n" for i in [1, 2, 3, 7, 7, 3, 4])
    diff = "--- a/f\n+++ b/f\n@@ -40,2 +40,2 @@\n 3\n-4\n+four\n"
    assert apply_patch({"f": text}, diff)["f"] == text.replace("4", "four")
    nearest = "--- a/f\n+++ b/f\n@@ -5 +5 @@\n-7\n+seven\n"
    assert apply_patch({"f": text}, nearest)["f"] == "1\n2\n3\n7\nseven\n3\n4\n"


def test_a_patch_adds_and_deletes_files_and_changes_several_places() -> None:
    diff = "--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+x\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-y\n"
    assert apply_patch({"old": "y\n", "f": "1\n"}, diff) == {"f": "1\n", "new": "x\n"}
    twice = "--- a/f\n+++ b/f\n@@ -1,2 +1,1 @@\n-- a\n b\n@@ -4 +3,2 @@\n d\n+e\n"
    assert apply_patch({"f": "- a\nb\nc\nd\n"}, twice) == {"f": "b\nc\nd\ne\n"}


def test_a_patch_without_hunks_is_refused() -> None:
    with pytest.raises(PatchFailed, match="no hunks"):
        apply_patch({"f": "1\n"}, "just words")


def test_a_hunk_without_context_comes_after_the_line_it_names():
    diff = "--- a/a.py\n+++ b/a.py\n@@ -2,0 +3 @@\n+new\n"
    assert apply_patch({"a.py": "1\n2\n3\n"}, diff) == {"a.py": "1\n2\nnew\n3\n"}
