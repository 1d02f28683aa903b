"""Rewards side by side, their sum, and what happens when one breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from thinkery.core import Completion, Score, Task
from thinkery.rewards.rubric import Part, Rubric

TASK, SAID = Task("t", "?", kind="math"), Completion("four", answer="four")


def one(task: Task, completion: Completion) -> float:
    return 1.0


def length(task: Task, completion: Completion) -> Score:
    return Score(len(completion.text) / 4, "letters")


def broken(task: Task, completion: Completion) -> float:
    raise ValueError("no such luck")


def test_the_sum_is_weighted_and_scores_keep_their_order() -> None:
    rubric = Rubric(length=Part(length, weight=2.0), one=one)
    ((scores, total),) = rubric.judge([(TASK, SAID)])
    assert list(scores) == ["length", "one"]
    assert scores["length"] == Score(1.0, "letters")
    assert total == 3.0


def test_a_part_that_does_not_apply_is_not_recorded() -> None:
    rubric = Rubric(one=one, general=Part(one, applies=lambda task: task.kind == "general"))
    judged = rubric.judge([(TASK, SAID), (Task("g", "hi"), SAID)])
    assert [(list(scores), total) for scores, total in judged] == [(["one"], 1.0), (["one", "general"], 2.0)]
    assert Rubric().judge([(TASK, SAID)]) == [({}, None)]


def test_an_exception_is_ungraded_and_never_zero() -> None:
    ((scores, total),) = Rubric(one=one, broken=broken).judge([(TASK, SAID)])
    assert scores["broken"] == Score(None, "ValueError: no such luck")
    assert scores["one"].value == 1.0
    assert total is None


def test_a_part_of_no_weight_is_recorded_but_does_not_count() -> None:
    ((scores, total),) = Rubric(one=one, broken=Part(broken, weight=0.0)).judge([(TASK, SAID)])
    assert scores["broken"].value is None
    assert total == 1.0


def test_only_finite_numbers_are_scores() -> None:
    for value in (float("nan"), float("inf"), None, "good"):
        odd: Any = lambda task, completion, value=value: value  # noqa: E731
        ((scores, total),) = Rubric(odd=odd).judge([(TASK, SAID)])
        assert scores["odd"].value is None
        assert total is None
    assert Rubric(yes=lambda task, completion: True).judge([(TASK, SAID)])[0][1] == 1.0


class Batched:
    """A reward that is asked once for everything."""

    def __init__(self, answers: Sequence[float]) -> None:
        self.answers, self.calls = answers, 0

    def __call__(self, task: Task, completion: Completion) -> float:
        raise AssertionError("has a batch")

    def batch(self, pairs: Sequence[tuple[Task, Completion]]) -> Sequence[float]:
        self.calls += 1
        return self.answers


def test_a_batched_reward_is_called_once() -> None:
    reward = Batched([0.25, 0.5])
    judged = Rubric(batched=reward).judge([(TASK, SAID), (TASK, SAID)])
    assert [total for _, total in judged] == [0.25, 0.5]
    assert reward.calls == 1


def test_a_batch_of_the_wrong_length_is_ungraded() -> None:
    judged = Rubric(batched=Batched([1.0])).judge([(TASK, SAID), (TASK, SAID)])
    assert [total for _, total in judged] == [None, None]


def test_async_rewards_wait_together() -> None:
    async def slow(task: Task, completion: Completion) -> float:
        await asyncio.sleep(0.2)
        if task.id == "bad":
            raise TimeoutError("no reply")
        return 0.5

    pairs = [(TASK, SAID)] * 10 + [(Task("bad", "?"), SAID)]
    begin = time.monotonic()
    judged = Rubric(slow=slow).judge(pairs)
    assert time.monotonic() - begin < 1.5
    assert [total for _, total in judged] == [0.5] * 10 + [None]
    assert judged[-1][0]["slow"].reason == "TimeoutError: no reply"
