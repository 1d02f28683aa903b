"""What the rewards for programs and for changes share: answer tags, equal answers, and what is nobody's fault."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from thinkery.core import Completion, Score, Task
from thinkery.rewards.code_tests import CodeTests
from thinkery.rewards.hidden_tests import blocks
from thinkery.rewards.software import SoftwareTests
from thinkery.sandbox import Pool, Program

RIGHT, WRONG = "```python\ndef two():\n    return 2\n```", "```python\ndef two():\n    return 1\n```"
CODE = Task("c", "?", "code", info={"test": "assert two() == 2"})
FILES = {"tools.py": "def two():\n    return 1\n"}
CHANGE = Task("s", "?", "software", info={"files": FILES, "test": "from tools import two\nassert two() == 2"})


class CountingPool(Pool):
    """A pool that knows how many programs it was given."""

    asked = 0

    def ask(self, program: Program, do: str, binary: str = "", tests: dict[str, str] | None = None) -> dict[str, Any]:
        self.asked += 1
        return super().ask(program, do, binary, tests)


@pytest.fixture
def pool() -> Iterator[CountingPool]:
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    with CountingPool(workers=2) as pool:
        yield pool


def said(answer: str, **more: Any) -> Completion:
    return Completion(answer, answer=answer, **more)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("<answer>```python\nx\n```</answer>", [("python", "x\n")]),
        (" <answer>\n```python\nx\n```\n</answer>\n", [("python", "x\n")]),
        ("```python\nprint('<answer>')\n```", [("python", "print('<answer>')\n")]),
        ("<answer>```python\nx\n```", []),
        ("<answer>1</answer><answer>```python\nx\n```</answer>", []),
    ],
)
def test_a_block_may_touch_the_tags_around_the_whole_answer(answer: str, found: list[tuple[str, str]]) -> None:
    assert blocks(answer) == found


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("1. So:\n   ```python\n   def f():\n       return 1\n   ```\n", "def f():\n    return 1\n"),
        ("- So:\n\n  ```python\n  if x:\n\n    y\n z\n  ```", "if x:\n\n  y\nz\n"),
        ("```python\n   x\n```", "   x\n"),
        ("So:\r\n```python\r\nif x:\r\n    y\r\n```\r\n", "if x:\r\n    y\r\n"),
    ],
)
def test_a_block_in_a_list_or_with_the_line_ends_of_windows_is_the_program_in_it(answer: str, program: str) -> None:
    assert blocks(answer) == [("python", program)]


def test_equal_answers_to_one_task_are_run_once(pool: CountingPool) -> None:
    twin = Task("c", "?", "code", info={"test": "assert two() == 1"})
    pairs = [(CODE, said(RIGHT)), (CODE, said(WRONG)), (CODE, said(RIGHT)), (twin, said(RIGHT)), (CODE, said(RIGHT))]
    scores = CodeTests(pool).batch(pairs)
    assert [score.value for score in scores] == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert pool.asked == 3


def test_an_open_thought_earns_nothing_beside_an_equal_answer_that_counts(pool: CountingPool) -> None:
    pairs = [(CODE, said(RIGHT, thought="…")), (CODE, said(RIGHT, thought="…", closed=True)), (CODE, said(RIGHT))]
    scores = CodeTests(pool).batch(pairs)
    assert scores == [Score(0.0, "thought not closed"), *[Score(1.0, "every hidden test passed")] * 2]
    assert pool.asked == 1


def test_both_rewards_speak_of_their_verdicts_alike(pool: CountingPool) -> None:
    for reward, task in ((CodeTests(pool), CODE), (SoftwareTests(pool), CHANGE)):
        assert reward(task, said(f"<answer>{RIGHT}</answer>")) == Score(1.0, "every hidden test passed")
        assert reward(task, said(WRONG)) == Score(0.0, "wrong: test 1: not so: assert two() == 2")
        assert reward(task, said("two")).value == 0.0
        assert reward(Task("t", "?", task.kind), said(RIGHT)).value is None
