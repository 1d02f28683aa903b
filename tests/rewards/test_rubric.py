"""Rewards side by side, their sum, and what happens when one breaks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from thinkery.core import Completion, Score, Task, rule
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.custom import load_reward
from thinkery.rewards.format import thinks
from thinkery.rewards.math_answer import MathPool
from thinkery.rewards.rubric import Part, Rubric, Spread, is_rule

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


def where(task: Task, completion: Completion) -> Score:
    """Who judges, as the reason."""
    return Score(1.0, threading.current_thread().name)


def test_rules_are_judged_elsewhere_and_all_else_stays_with_the_same_verdicts_in_the_same_order() -> None:
    parts: dict[str, Any] = {
        "first": rule(lambda task, completion: where(task, completion)),
        "own": Part(where, weight=0.5),
        "general": Part(rule(lambda task, completion: where(task, completion)), applies=lambda t: t.kind == "general"),
        "length": rule(lambda task, completion: length(task, completion)),
    }
    with ThreadPoolExecutor(1, thread_name_prefix="elsewhere") as workers:
        spread = Spread(Rubric(**parts), workers)
        ((scores, total),) = spread.judge([(TASK, SAID)])
        assert {name: score.reason for name, score in scores.items()} == {
            "first": "elsewhere_0",
            "own": "MainThread",
            "length": "letters",
        }
        assert list(scores) == ["first", "own", "length"]
        assert total == 1.0 + 0.5 + 1.0
        pairs = [(TASK, SAID), (TASK, Completion("")), (TASK, Completion("no"))]
        lengths = Rubric(length=parts["length"], one=one)
        assert Spread(lengths, workers).judge(pairs) == lengths.judge(pairs)
        assert [total for _, total in lengths.judge(pairs)] == [2.0, 1.0, 1.5]
        ((only, _),) = spread.only("first").judge([(TASK, SAID)])
        assert only == {"first": Score(1.0, "elsewhere_0")}


def test_what_is_begun_elsewhere_goes_on_while_this_process_judges() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def meets(task: Task, completion: Completion) -> float:
        return float(meeting.wait() >= 0)

    with ThreadPoolExecutor(1) as workers:
        finish = Spread(Rubric(here=meets, there=rule(lambda task, said: meets(task, said))), workers).begin(
            [(TASK, SAID)]
        )
        [(scores, total)], seconds = finish()
    assert total == 2.0, scores
    assert seconds > 0


def test_a_rubric_without_rules_asks_nobody() -> None:
    with ThreadPoolExecutor(1) as workers:
        pass
    spread = Spread(
        Rubric(one=one, general=Part(rule(lambda t, c: 1.0), applies=lambda t: t.kind == "general")), workers
    )
    assert spread.judge([(TASK, SAID)]) == [({"one": Score(1.0)}, 1.0)]  # its workers have gone home


def test_environments_and_pools_and_rewards_of_ones_own_are_of_this_process(tmp_path: Path) -> None:
    game = Task("g", "?", kind="environment")
    assert is_rule(Part(accuracy), [TASK])
    assert is_rule(Part(thinks), [TASK, game])
    assert not is_rule(Part(accuracy), [game])
    assert not is_rule(Part(accuracy), [TASK, game])
    assert not is_rule(Part(type(accuracy)(pool=MathPool())), [TASK])
    assert not is_rule(Part(thinks, applies=lambda task: False), [TASK])
    own = tmp_path / "own.py"
    own.write_text("from thinkery.core import rule\n@rule\ndef score(task, completion):\n    return 1.0\n")
    assert not is_rule(Part(load_reward(f"{own}:score")), [TASK])
