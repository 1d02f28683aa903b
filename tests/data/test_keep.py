"""Filters over attempts, and the funnel that counts them."""

from __future__ import annotations

import pytest

from thinkery.core import Completion, Rollout, Score, Task
from thinkery.data.keep import Readable, readable, right
from thinkery.rewards.shaping import repetition
from thinkery.rewards.units import ngrams, units

FRESH = "First I add seven and five, which makes twelve. Then I take away three, so nine is left. That fits."


def attempt(thought: str | None, answer: str = "9", language: str | None = "en", **rest: object) -> Rollout:
    completion = Completion("", thought=thought, answer=answer, closed=thought is not None)
    for name, value in rest.items():
        object.__setattr__(completion, name, value)
    return Rollout(Task("t", "?", language=language), (), completion)


def test_right_asks_for_full_accuracy() -> None:
    def scored(**scores: Score) -> Rollout:
        return Rollout(Task("t", "?"), (), Completion(""), scores)

    assert right(scored(accuracy=Score(1.0))) is None
    assert right(scored(accuracy=Score(0.0))) == "wrong"
    assert right(scored(accuracy=Score(None, "timeout"))) == "ungraded"
    assert right(scored()) == "ungraded"
    assert right(scored(judge=Score(1.0)), reward="judge") is None


@pytest.mark.parametrize(
    ("rollout", "reason"),
    [
        (attempt(FRESH), None),
        (attempt(None, "Hello!"), None),
        (attempt("7 + 5 = 12, 12 - 3 = 9"), None),
        (attempt(FRESH, finish="length"), "cut off"),
        (attempt(FRESH, closed=False), "thought not closed"),
        (attempt(FRESH, " "), "no answer"),
        (attempt(FRESH + " 然后我们得到九所以答案是九"), "mixed languages"),
        (attempt(FRESH, language="zh"), "mixed languages"),
        (attempt(FRESH, language=None), None),
        (attempt(FRESH + "\n```python\nprint(9)\n```"), "code in the thought"),
        (attempt("word " * 700), "long paragraph"),
        (attempt("wait let me check that again " * 20), "repetition"),
        (attempt("我们再检查一遍这个答案。" * 10, language="zh"), "repetition"),
        (attempt(FRESH, "\ufffd\ufffd"), "garbage characters"),
        (attempt(FRESH + "=" * 60), "garbage characters"),
    ],
)
def test_unreadable_thoughts_are_dropped_with_a_reason(rollout: Rollout, reason: str | None) -> None:
    assert readable(rollout) == reason


def test_limits_are_settings() -> None:
    assert readable(attempt("word " * 700), Readable(paragraph=4000, repetition=1.0)) is None
    assert readable(attempt(FRESH, language="zh"), Readable(language=0.0)) is None
    assert readable(attempt(FRESH + "\n```\nx\n```"), Readable(code=True)) is None


def test_chinese_counts_by_character_and_english_by_word() -> None:
    assert units("Don't ADD 3.5 to 二十！") == ["don", "t", "add", "3", "5", "to", "二", "十"]
    assert ngrams("a b c d", 3) == ["a b c", "b c d"]
    assert ngrams("a b", 3) == []


def test_repetition_is_the_share_of_ngrams_seen_before() -> None:
    assert repetition("a b c a b c a b c", n=3) == pytest.approx(4 / 7)  # abc bca cab, then abc bca cab abc again
    assert repetition("再来一次再来一次", n=4) == pytest.approx(1 / 5)
    assert repetition(FRESH) == 0.0
    assert repetition("short") == 0.0
