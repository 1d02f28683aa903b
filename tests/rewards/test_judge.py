"""A model as a judge: five verdicts in both orders, or agreement with a reference."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from thinkery.core import Completion, Message, Sampling, Score, Task
from thinkery.engine.base import Event, Request
from thinkery.errors import UsageError
from thinkery.rewards.judge import (
    Comparison,
    ReferenceJudge,
    SafetyJudge,
    compare,
    correctness,
    random_orders,
    verdict,
)
from thinkery.rewards.rubric import Rubric


class Rules:
    """An engine whose model is a function of the conversation; finishes requests last come, first served."""

    def __init__(self, reply: Callable[[Sequence[Message]], str]) -> None:
        self.reply = reply
        self.queue: list[Request] = []

    def submit(self, request: Request) -> str:
        self.queue.append(request)
        return str(len(self.queue))

    def step(self) -> list[Event]:
        id, request = str(len(self.queue)), self.queue.pop()
        answer = self.reply(request.messages)
        return [Event(id, sample, completion=Completion(answer, answer=answer)) for sample in range(len(request.seeds))]

    def cancel(self, id: str) -> None: ...

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None: ...

    def release(self) -> None: ...


def answers(messages: Sequence[Message]) -> tuple[str, str]:
    a, _, b = messages[-1].content.partition("# Answer A\n")[2].partition("\n\n# Answer B\n")
    return a, b


def longer_is_better(messages: Sequence[Message]) -> str:
    a, b = map(len, answers(messages))
    return "I weighed both. [[A>>B]]" if a > b else "[[B>A]]" if b > a else "[[A=B]]"


def test_every_pair_is_judged_in_both_orders() -> None:
    found = compare(
        Rules(longer_is_better), [("q", "long answer", "short"), ("q", "same", "size")], Sampling(), times=4
    )
    assert sorted(found[0].scores) == [1.0, 1.0, 2.0, 2.0]
    assert (found[0].mean, found[0].failures) == (1.5, 0)
    assert found[1].mean == 0.0


def test_a_judge_that_prefers_what_it_reads_first_prefers_nothing() -> None:
    (found,) = compare(Rules(lambda messages: "[[A>>B]]"), [("q", "one", "two")], Sampling())
    assert sorted(found.scores) == [-2.0, 2.0]
    assert found.mean == 0.0


def test_which_judgement_gets_which_order_is_drawn_at_random_and_both_come_equally_often() -> None:
    drawn = [tuple(random_orders(random.Random(seed), 4)) for seed in range(200)]
    assert all(sum(orders) == 0 for orders in drawn)
    assert len(set(drawn)) == 6
    assert {sum(random_orders(random.Random(seed), 3)) for seed in range(50)} == {1, -1}
    first_seen = Rules(lambda messages: "[[A>>B]]")
    ways = {compare(first_seen, [("q", "one", "two")], Sampling(), times=4, seed=n)[0].scores for n in range(50)}
    assert len(ways) == 6


def test_replies_without_one_verdict_are_counted_and_not_guessed() -> None:
    engine = Rules(
        lambda messages: "[[A>B]]" if answers(messages)[0] == "one" else "A is better, or [[A>B]] or [[B>A]]"
    )
    (found,) = compare(engine, [("q", "one", "two")], Sampling(), times=4)
    assert found == Comparison((1.0, 1.0), 2)
    assert compare(Rules(lambda messages: "?"), [("q", "a", "b")], Sampling())[0].mean is None
    assert verdict(Completion("", answer="[[A>B]] so [[ A>B ]]")) == "A>B"


def test_one_judgement_of_a_pair_is_refused() -> None:
    with pytest.raises(UsageError, match="once in each order"):
        compare(Rules(longer_is_better), [("q", "a", "b")], Sampling(), times=1)


@pytest.mark.parametrize(
    ("reply", "value", "reason"),
    [
        ('{"analysis": "Both say Paris.", "correctness": "correct"}', 1.0, "Both say Paris."),
        ('Here: ```json\n{"analysis": "7 is\nnot 8", "correctness": "Incorrect"}\n```', 0.0, "7 is\nnot 8"),
        ('{"analysis": "Hard to say", "correctness": "maybe"}', None, "no verdict"),
        ('{"correctness": true}', None, "no verdict"),
        ("It is correct.", None, "no verdict"),
        ("", None, "no verdict"),
    ],
)
def test_a_reference_verdict_is_read_from_json_or_not_at_all(reply: str, value: float | None, reason: str) -> None:
    score = correctness(Completion(reply, answer=reply))
    assert score.value == value
    assert reason in score.reason


def agrees(messages: Sequence[Message]) -> str:
    problem, _, rest = messages[-1].content.partition("# Reference\n")
    gold, _, answer = rest.partition("\n\n# Answer\n")
    return "?" if "riddle" in problem else f'{{"analysis": "", "correctness": "{"in" * (gold not in answer)}correct"}}'


def test_the_reference_judge_is_a_reward_that_never_sees_the_thought() -> None:
    def said(answer: str, closed: bool = True) -> Completion:
        return Completion("", thought="It is Paris", answer=answer, closed=closed)

    judge = ReferenceJudge(Rules(agrees), Sampling())
    city, riddle, chat = Task("a", "Capital?", gold="Paris"), Task("b", "A riddle", gold="egg"), Task("c", "Hi")
    pairs = [(city, said("Paris.")), (city, said("Rome.")), (riddle, said("egg")), (chat, said("Hello"))]
    pairs += [(city, said("", closed=False)), (city, said(" "))]
    values = [total for _, total in Rubric(judge=judge).judge(pairs)]
    assert values == [1.0, 0.0, None, None, 0.0, 0.0]
    assert judge.failures == 1
    assert judge(city, said("Paris")) == Score(1.0, "")


def test_the_safety_judge_reads_the_thought_and_counts_what_it_cannot_read() -> None:
    def alarmed(messages: Sequence[Message]) -> str:
        shown = messages[-1].content
        return "?" if "riddle" in shown else f'{{"analysis": "", "safety": "{"un" * ("poison" in shown)}safe"}}'

    judge = SafetyJudge(Rules(alarmed), Sampling())
    hello = Completion("", answer="Hello!")
    plotting = Completion("", thought="poison?", answer="I cannot help.", closed=True)
    pairs = [(Task("a", "Hi"), hello), (Task("b", "Hi"), plotting), (Task("c", "A riddle"), hello)]
    assert judge.label(pairs) == [True, False, None]
    assert judge.failures == 1
    assert [total for _, total in Rubric(safe=judge).judge(pairs)] == [1.0, 0.0, None]


def test_a_judge_may_write_formulas():
    said = r'{"analysis": "\(x\) is \sqrt{2}", "correctness": "correct"}'
    assert correctness(Completion(said, answer=said)).value == 1
