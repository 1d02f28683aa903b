"""What rewards pay for nonsense, and whether they pay for a right answer."""

from __future__ import annotations

import re

import pytest

from thinkery.core import Completion, Task
from thinkery.errors import UsageError
from thinkery.rewards.accuracy import accuracy, lenient_accuracy
from thinkery.rewards.extract import final_answer
from thinkery.rewards.format import thinks, thinks_then_answers
from thinkery.rewards.language import consistency
from thinkery.rewards.lint import check_gold, dry_run_gold, lint
from thinkery.rewards.math_answer import shared_pool
from thinkery.rewards.rubric import Part, Rubric

MATH = Task("m", "What is 17+5?", kind="math", gold="22", language="en", source="toy")
SUM = Task("s", "$17+5$", kind="math", gold="22", language="en")
CHOICE = Task("c", "哪个字母？A B C", kind="choice", gold="B", language="zh")
WORD = Task("w", "Capitale de la France ?", kind="exact", gold="Paris", language="fr")
RUBRIC = Rubric(accuracy=accuracy, format=thinks_then_answers, language=consistency)


def careless_format(task: Task, completion: Completion) -> float:
    return float(bool(re.fullmatch(r"<think>.*</think>.*", completion.text, re.DOTALL)))


@pytest.mark.parametrize("task", [MATH, SUM, CHOICE, WORD], ids=lambda task: task.id)
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("form", [thinks, thinks_then_answers])
def test_our_rewards_pay_for_gold_and_for_nothing_else(task: Task, opened: bool, form: object) -> None:
    rubric = Rubric(accuracy=accuracy, format=form, language=consistency)  # pyright: ignore[reportArgumentType]
    dry_run_gold(rubric, task, opened=opened)
    findings = lint(rubric, [task], opened=opened)
    assert len(findings) == 11 + 4 * (task is SUM)  # which quotes a formula
    assert [(finding.probe, finding.why) for finding in findings if finding.suspicious] == []
    earned = {finding.probe: finding.scores["accuracy"].value for finding in findings}
    assert earned == {probe: float(probe == "gold without a thought") for probe in earned}


def test_a_format_reward_that_the_template_breaks_is_named() -> None:
    rubric = Rubric(accuracy=accuracy, format=careless_format)
    dry_run_gold(rubric, MATH)
    with pytest.raises(UsageError, match="reward 'format' does not pay") as caught:
        dry_run_gold(rubric, MATH, opened=True)
    assert "task 'm' of toy" in str(caught.value)
    assert "0 of 1" in str(caught.value)
    assert "<answer>22</answer>" in str(caught.value)


def test_a_reward_that_raises_on_gold_is_an_error_before_training() -> None:
    def broken(task: Task, completion: Completion) -> float:
        raise KeyError("difficulty")

    with pytest.raises(UsageError, match="KeyError: 'difficulty'"):
        dry_run_gold(Rubric(broken=broken), MATH)


def test_full_marks_of_a_reward_of_ones_own_may_be_less_than_one() -> None:
    dry_run_gold(Rubric(half=Part(lambda task, completion: 0.5, full_marks=0.5)), MATH)


def test_lint_reports_a_format_that_pays_for_an_empty_thought() -> None:
    suspicious = {f.probe for f in lint(Rubric(accuracy=accuracy, format=careless_format), [MATH]) if f.suspicious}
    assert suspicious == {"gold without a thought"}


def test_lint_reports_an_equality_that_pays_for_what_the_question_quotes() -> None:
    def equal(task: Task, completion: Completion) -> float:
        answer = final_answer(completion) or ""
        return shared_pool().grade([(task.gold or "", answer)])[0].value or 0.0

    task = Task("e", "Expand $(x+1)(x+2)$ for every $x$.", kind="math", gold="x^2+3x+2", language="en")
    found = {f.probe: f for f in lint(Rubric(equal=equal, format=thinks_then_answers), [task])}
    assert "(x+1)(x+2)" in found["a formula copied"].text
    copies = {name for name in found if name.startswith("a formula copied")}
    assert len(copies) == 4
    assert {name for name in copies if found[name].suspicious} == copies
    assert not any(f.suspicious for f in lint(RUBRIC, [task]))


def test_lint_reports_a_lenient_accuracy_that_pays_for_stuffing() -> None:
    def contains(task: Task, completion: Completion) -> float:
        return float((task.gold or "") in completion.text)

    suspicious = {f.probe: f.why for f in lint(Rubric(own=contains), [MATH]) if f.suspicious}
    assert {"stuffed with answers", "gold in the thought only", "thought never closed"} <= set(suspicious)
    assert suspicious["stuffed with boxes"] == "earns 1, no less than a genuine answer (1)"
    assert not any(f.suspicious for f in lint(Rubric(accuracy=lenient_accuracy, format=thinks), [MATH]))


def test_tasks_with_unreadable_gold_are_dropped_with_reasons() -> None:
    tasks = [
        MATH,
        Task("half", "?", kind="math", gold=r"\frac{1}{2}"),
        Task("open", "?", kind="math", gold="10^{"),
        Task("nan", "?", kind="math", gold="NaN"),
        Task("none", "?", kind="math"),
        Task("long", "?", kind="choice", gold="Paris"),
        Task("chat", "hello"),
        Task("own", "?", kind="poem"),
    ]
    kept, dropped = check_gold(tasks)
    assert [task.id for task in kept] == ["m", "half", "chat", "own"]
    assert [(task.id, reason) for task, reason in dropped] == [
        ("open", "gold cannot be read as mathematics"),
        ("nan", "gold cannot be read as mathematics"),
        ("none", "no gold answer"),
        ("long", "gold is not a letter"),
    ]
