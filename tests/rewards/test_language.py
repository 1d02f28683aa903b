"""The share of words in a language."""

from __future__ import annotations

import pytest

from thinkery.core import Completion, Task
from thinkery.rewards.language import consistency, language_of, language_share


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        ("I think it's fine", "en", 1.0),
        ("one two 三四", "en", 0.5),
        ("one two 三四", "zh", 0.5),
        ("先算 then add 12 + 5", "zh", 0.5),
        ("x = 5, y = π", "en", None),
        ("12 + 5 = 17", "zh", None),
        ("", "en", None),
        ("先算 $x_{max} + y$ 和 `code here` \\boxed{5} <answer>", "zh", 1.0),
        ("```python\nprint(1)\n``` 好", "zh", 1.0),
        ("日本語です", "ja", 1.0),
        ("日本語です", "zh", 0.6),
        ("Привет мир hello", "ru", 2 / 3),
        ("안녕 hello", "ko", 2 / 3),
        ("hello", "en-GB", 1.0),
        ("好", "zh-CN", 1.0),
        ("très bien", "fr", 1.0),
    ],
)
def test_words_are_counted_by_their_script(text: str, target: str, share: float | None) -> None:
    assert language_share(text, target) == pytest.approx(share)


def test_only_the_thought_is_judged() -> None:
    task = Task("t", "多少？", language="zh")
    completion = Completion("", thought="先 add 一", answer="all English here", closed=True)
    assert consistency(task, completion).value == pytest.approx(2 / 3)
    assert consistency(task, Completion("1+1", thought="1+1=2")).reason == "no words to judge"
    assert consistency(task, Completion("1+1", thought="1+1=2")).value == 1.0


def test_a_task_without_language_takes_that_of_its_prompt() -> None:
    assert [language_of(text) for text in ("How many?", "多少？", "いくつ？", "몇 개?", "1+1")] == [
        "en", "zh", "ja", "ko", None,
    ]  # fmt: skip
    assert consistency(Task("t", "多少？"), Completion("", thought="先 add 一")).value == pytest.approx(2 / 3)
