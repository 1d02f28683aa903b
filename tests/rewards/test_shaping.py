"""Rewards for how an answer is written, against values worked out by hand."""

from __future__ import annotations

import pytest

from thinkery.core import Completion, Message, Score, Task
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.lint import dry_run_gold
from thinkery.rewards.rubric import Rubric
from thinkery.rewards.shaping import Shaping, cites, overlong, reflections, reflects, repetition, shaping, unrepeated

TASK = Task("t", "What is 2 + 3?", "math", "5", "en")


@pytest.mark.parametrize(
    ("length", "value"),
    [(0, 0.0), (16_384, 0.0), (16_385, -1 / 4096), (18_432, -0.5), (20_480, -1.0), (30_000, -1.0)],
)
def test_overlong_completions_are_punished_as_in_dapo(length: int, value: float) -> None:
    score = overlong(20_480, 4096)(TASK, Completion("", tokens=(0,) * length))
    assert isinstance(score, Score)
    assert score.value == pytest.approx(value)


def test_repetition_is_the_share_of_eight_grams_seen_before() -> None:
    text = "a b c d e f g h a b c d e f g h"  # nine 8-grams, the last of them the first again
    assert repetition(text) == pytest.approx(1 / 9)
    assert unrepeated(TASK, Completion(text)).value == pytest.approx(-1 / 9)
    assert unrepeated(TASK, Completion("2 + 3 = 5")).value == 0.0


def test_words_of_reflection_are_counted_in_english_and_chinese() -> None:
    assert reflections("Wait, I made a mistake. But waiting is fine. 等等，不对。") == 5
    assert reflects(TASK, Completion("", thought="Wait, check it.")).value == pytest.approx(2 / 3)
    assert reflects(TASK, Completion("", thought="wait " * 50)).value == 1.0
    assert reflects(TASK, Completion("wait", thought=None)).value == 0.0


def test_citations_must_name_a_note_that_was_given() -> None:
    asked = Task("t", "[webpage 1 begin] Tea. [webpage 1 end] [webpage 2 begin] Rice. [webpage 2 end] What is there?")
    assert cites(asked, Completion("", answer="Tea [citation:1] and rice [2], and salt [7].")).value == pytest.approx(
        2 / 3
    )
    assert cites(asked, Completion("", answer="Tea and rice.")).value == 0.0
    begun = Task("t", "What is there?", history=(Message("assistant", "", thought="[3] Salt."),))
    assert cites(begun, Completion("", answer="Salt [3].")).value == 1.0


def test_settings_decide_which_of_them_join_a_rubric() -> None:
    assert shaping(Shaping(), 512) == {}
    some = shaping(Shaping(overlong=0.5, overlong_buffer=128, citations=1.0), 512)
    rubric = Rubric(accuracy=accuracy, **some)
    dry_run_gold(rubric, TASK)
    said = Completion("<answer>5</answer>", tokens=(0,) * 448, answer="<answer>5</answer>")
    ((scores, reward),) = rubric.judge([(TASK, said)])
    assert list(scores) == ["accuracy", "overlong"]  # the task gives no notes
    assert reward == pytest.approx(1.0 - 0.5 * 0.5)
