"""What counts as right in a recipe of one's own."""

from __future__ import annotations

import pytest

from thinkery.core import Completion, Task
from thinkery.stages.own import Verdict

SUM = Task("t", "What is 3 + 4?", "math", gold="7")


def accuracy(verdict: Verdict, text: str) -> float | None:
    rubric = verdict.rubric()
    return rubric.parts["accuracy"].reward(SUM, Completion(text, answer=text)).value


@pytest.mark.parametrize(
    ("text", "tagged", "bare"),
    [
        ("Three and four make 7.", 0, 1),
        ("7, or rather 8", 0, 0),
        ("<answer> 7 </answer>", 1, 1),
        ("Seven.", 0, 0),
    ],
)
def test_a_bare_verdict_takes_the_last_number_wherever_it_stands(text: str, tagged: float, bare: float) -> None:
    assert accuracy(Verdict(), text) == tagged
    assert accuracy(Verdict(bare=True), text) == bare


def test_without_weight_the_form_is_not_asked_for() -> None:
    assert list(Verdict(format_weight=0).rubric().parts) == ["accuracy"]
    assert list(Verdict().rubric().parts) == ["accuracy", "format"]


def test_votes_are_over_bare_answers_where_these_count() -> None:
    said = Completion("So 8.", answer="So 8.")
    assert Verdict(bare=True).extract(said, "math") == "8"
    assert Verdict().extract(said, "math") is None
