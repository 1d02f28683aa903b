"""A reward of one's own: found, checked, called, and known by its content."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkery.core import Completion, Task
from thinkery.errors import InputError, UsageError
from thinkery.rewards.custom import load_reward, reward_hash
from thinkery.rewards.rubric import Rubric

TASK = Task("1", "2 + 2?", gold="4")


def write(folder: Path, text: str) -> str:
    (folder / "my.py").write_text(text)
    return f"{folder}/my.py"


def test_a_reward_sees_the_answer_without_its_tags(tmp_path: Path) -> None:
    file = write(tmp_path, "def score(task, completion):\n    return float(completion.answer == task.gold)\n")
    reward = load_reward(f"{file}:score")
    assert reward(TASK, Completion("", answer="so <answer>5</answer> <answer> 4 </answer>")) == 1.0
    assert reward(TASK, Completion("", answer="4")) == 1.0
    assert reward(TASK, Completion("", answer="<answer>5</answer>")) == 0.0


def test_an_async_reward_is_awaited_by_the_rubric(tmp_path: Path) -> None:
    file = write(tmp_path, "async def score(task, completion):\n    return 0.5\n")
    ((_, total),) = Rubric(own=load_reward(f"{file}:score")).judge([(TASK, Completion(""))])
    assert total == 0.5


def test_an_edited_file_is_imported_anew_and_has_another_hash(tmp_path: Path) -> None:
    file = write(tmp_path, "def score(task, completion):\n    return 1\n")
    first, before = load_reward(f"{file}:score"), reward_hash(f"{file}:score")
    write(tmp_path, "def score(task, completion):\n    return 2\n")
    assert load_reward(f"{file}:score")(TASK, Completion("")) == 2
    assert first(TASK, Completion("")) == 1
    assert reward_hash(f"{file}:score") != before


@pytest.mark.parametrize(
    ("text", "name", "error", "message"),
    [
        ("def score(task, completion): pass", "scor", InputError, "did you mean 'score'"),
        ("score = 3", "score", InputError, "its functions are: none"),
        ("def score(text): pass", "score", UsageError, r"a reward takes \(task, completion\)"),
        ("import no_such_module", "score", InputError, r"my\.py:1: the reward's file does not import: ModuleNotFound"),
        ("x = 1\n\ny = 1 / 0", "score", InputError, r"my\.py:3: .*ZeroDivisionError"),
        ("def score(:", "score", InputError, r"my\.py:1: .*SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_reward_is_said(tmp_path: Path, text: str, name: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load_reward(f"{write(tmp_path, text)}:{name}")


def test_a_reward_needs_a_file_and_a_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"my\.py:score"):
        load_reward("score")
    with pytest.raises(InputError, match="no such file"):
        load_reward("missing.py:score")
