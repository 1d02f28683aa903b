from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinkery.core import Completion, Score, Task
from thinkery.rewards.code_tests import CodeTests, extract_code
from thinkery.sandbox import Pool

DATA = Path(os.environ.get("THINKERY_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason="needs THINKERY_DATA")
ADD = {"test": "assert add(1, 2) == 3\nassert add(-1, 1) == 0"}


@pytest.fixture(scope="module")
def reward() -> Iterator[CodeTests]:
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    with Pool(workers=2) as pool:
        yield CodeTests(pool)


def score(reward: CodeTests, info: dict, answer: str, **more) -> Score:
    return reward(Task("t", "?", "code", info=info), Completion(answer, answer=answer, **more))


def python(source: str) -> str:
    return f"Here it is:\n```python\n{source}\n```\nDone."


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("```python\na = 1\n```", "a = 1\n"),
        ("first\n```python\na = 1\n```\nbetter\n```py\na = 2\n```\nbye", "a = 2\n"),
        ("```\na = 1\n```", "a = 1\n"),
        ("<think>```python\nbad\n```</think>\n```python\ngood\n```", "good\n"),
        ("opened by the prompt ```python\nbad\n```\n</think>```python\ngood\n```", "good\n"),
        ("<think>\n```python\nbad\n```", None),
        ("<think>\n```python\nbad\n```\n</think> none", None),
        ("```python\na = 1", None),
        ("a = 1", None),
        ("```python\nfor i in x:\n    s = '```'\n```", "for i in x:\n    s = '```'\n"),
        ("```python\r\na = 1\r\n```", "a = 1\r\n"),
        ("", None),
    ],
)
def test_code_is_the_last_closed_block_after_the_thought(output: str, code: str | None) -> None:
    assert extract_code(output) == code


def test_right_code_earns_1_and_everything_else_0(reward: CodeTests) -> None:
    assert score(reward, ADD, python("def add(a, b): return a + b")) == Score(1.0, "every hidden test passed")
    wrong = score(reward, ADD, python("def add(a, b): return 3"))
    assert wrong == Score(0.0, "wrong: test 1: not so: assert add(-1, 1) == 0")
    assert score(reward, ADD, "def add(a, b): return a + b") == Score(0.0, "no code block")
    assert score(reward, ADD, python("add = 1")).value == 0.0
    unclosed = score(reward, ADD, "", thought="```python\ndef add(a, b): return a + b\n```")
    assert unclosed == Score(0.0, "thought not closed")


def test_input_and_output_calls_and_limits_come_from_the_task(reward: CodeTests) -> None:
    printing = {"tests": [{"stdin": "1 2", "stdout": "3"}, {"stdin": "2 2", "stdout": "4"}]}
    assert score(reward, printing, python("print(sum(map(int, input().split())))")).value == 1.0
    cpp = "```cpp\n#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }\n```"
    assert score(reward, printing, cpp).value == 1.0
    calling = {"tests": [{"function": "add", "arguments": [1, 2], "result": 3}]}
    assert score(reward, calling, python("def add(a, b): return a + b")).value == 1.0
    hurried = printing | {"limits": {"wall_s": 0.3}}
    slow = score(reward, hurried, python("while True: pass"))
    assert slow == Score(0.0, "timeout: test 1: took longer than 0.3 s")


def test_what_stands_before_a_continuation_is_not_doubled(reward: CodeTests) -> None:
    before = "from math import pi\ndef half(x):\n    return x / 2\ndef area(r):\n"
    info = {"before": before, "test": "assert area(2) > 6.28 and half(2) == 1", "entry_point": "area"}
    assert score(reward, info, python("    return pi * r * r")).value == 1.0
    assert score(reward, info, python("def area(r):\n    return pi * half(2 * r * r)")).value == 1.0


@pytest.mark.parametrize("info", [{}, {"tests": []}, {"test": "assert ("}, {"tests": [{"stdin": "1"}]}])
def test_tests_that_cannot_be_used_leave_an_answer_ungraded(reward: CodeTests, info: dict) -> None:
    assert score(reward, info, python("print(1)")).value is None


def test_without_a_sandbox_answers_are_ungraded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with Pool(1) as pool:
        found = score(CodeTests(pool), ADD, python("def add(a, b): return a + b"))
    assert found.value is None
    assert "apt-get install bubblewrap" in found.reason


def humaneval(body: str | None) -> list[tuple[Task, Completion]]:
    """Every problem with its canonical solution, or with another body."""
    pairs = []
    with gzip.open(DATA / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            info = {key: row[key] for key in ("test", "entry_point")} | {"before": row["prompt"]}
            source = row["canonical_solution"] if body is None else body
            pairs.append((Task(row["task_id"], "", "code", info=info), Completion("", answer=python(source))))
    return pairs


@needs_data
def test_every_canonical_solution_of_humaneval_passes(reward: CodeTests) -> None:
    scores = reward.batch(humaneval(None))
    assert [score.value for score in scores] == [1.0] * 164


CHEATS = (
    "    return None",
    "    import os; os._exit(0)",
    "    exit(0)",
    "    return type('Any', (), {'__eq__': lambda a, b: True, '__sub__': lambda a, b: 0})()",
)


@needs_data
def test_every_broken_solution_of_humaneval_is_refused(reward: CodeTests) -> None:
    broken = [pair for body in CHEATS for pair in random.Random(body).sample(humaneval(body), 30)]
    broken += humaneval("    pass")
    assert {score.value for score in reward.batch(broken)} == {0.0}


@needs_data
def test_reference_code_of_mbpp_passes_its_tests(reward: CodeTests) -> None:
    with gzip.open(DATA / "mbpp" / "mbpp.jsonl.gz", "rt") as file:
        rows = random.Random(0).sample([json.loads(line) for line in file], 150)
    pairs = []
    for row in rows:
        info = {"test": "\n".join([row["test_setup_code"], *row["test_list"]])}
        pairs.append((Task(str(row["task_id"]), "", "code", info=info), Completion("", answer=python(row["code"]))))
    assert [score.value for score in reward.batch(pairs)] == [1.0] * 150
