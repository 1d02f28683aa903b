"""Which part of a completion is the answer, and whether it is right."""

from __future__ import annotations

import time

import pytest

from thinkery.chat import split
from thinkery.core import Completion, Task
from thinkery.rewards.accuracy import accuracy, lenient_accuracy
from thinkery.rewards.extract import final_answer, letter


def said(text: str, *, opened: bool = False) -> Completion:
    parts = split(text, opened=opened)
    return Completion(text=text, thought=parts.thought, answer=parts.answer, closed=parts.closed)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>so</think> <answer> 5 </answer>", "5"),
        ("<think>so</think>\nIt is \\boxed{\\frac{1}{2}}.", r"\frac{1}{2}"),
        ("<think>so</think><answer>It is \\boxed{7}</answer>", "7"),
        ("<think>so</think><answer>1</answer> or <answer>2</answer>", "2"),
        ("<think>so</think>\\boxed{1} no, \\boxed{2}", "2"),
        ("no thought, \\boxed{3}", "3"),
        ("\\boxed{\\{1,2\\}}", r"\{1,2\}"),
        ("<think><answer>5</answer> \\boxed{5}</think> I am not sure.", None),
        ("<think>\\boxed{5}", None),
        ("<think>so</think>\\boxed{1} then \\boxed{2", None),
        ("<think>so</think><answer>1</answer> then <answer>2", None),
        ("<think>so</think><answer>1</answer> then <answer></answer>", None),
        ("<think>so</think> 5", None),
        ("", None),
    ],
)
def test_the_last_tag_or_box_after_the_thought_is_the_answer(text: str, answer: str | None) -> None:
    assert final_answer(said(text)) == answer


def test_a_thought_that_the_prompt_opened_counts_as_a_thought() -> None:
    assert final_answer(said("so <answer>5</answer>", opened=True)) is None
    assert final_answer(said("so</think><answer>5</answer>", opened=True)) == "5"


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("B) Paris", "B"),
        ("Answer: B", "B"),
        (r"\text{B}", "B"),
        ("**B**", "B"),
        ("答案：B", "B"),
        ("Both", None),
        ("A and B", None),
        ("", None),
    ],
)
def test_a_letter_is_read_in_its_usual_writings(text: str, given: str | None) -> None:
    assert letter(text) == given


CHOICE = Task("c", "Which?", kind="choice", gold="B")


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("<think>hm</think><answer>(B)</answer>", 1.0, "as it should be"),
        ("<think>hm</think>Answer: B", 1.0, "as it should be"),
        ("<think>hm</think>The answer is **C**.", 0.0, "'C' is not 'B'"),
        ("<think>Answer: B", 0.0, "thought not closed"),
        ("<think>Answer: B</think>I answered", 0.0, "no answer"),
    ],
)
def test_a_choice_is_right_by_its_letter(text: str, value: float, reason: str) -> None:
    score = accuracy(CHOICE, said(text))
    assert score.value == value
    assert reason in score.reason


def test_exact_answers_ignore_case_width_and_white_space() -> None:
    task = Task("e", "Say it", kind="exact", gold="New York")
    assert accuracy(task, said("<answer>new  YORK.</answer>")).value == 1.0
    assert accuracy(task, said("<answer>York</answer>")).value == 0.0


def test_no_rule_means_ungraded() -> None:
    completion = said("<answer>5</answer>")
    assert accuracy(Task("g", "Hi"), completion).value is None
    assert accuracy(Task("m", "2+3", kind="math"), completion).value is None
    assert accuracy(Task("c", "Which?", kind="choice", gold="Paris"), said("<answer>B</answer>")).value is None


def test_a_batch_is_scored_in_order_across_kinds() -> None:
    math = Task("m", "1/4+1/4", kind="math", gold="1/2")
    pairs = [
        (math, said("\\boxed{0.5}")),
        (CHOICE, said("<answer>B</answer>")),
        (math, said("nothing")),
        (math, said("\\boxed{7}")),
        (math, said("<think>\\boxed{0.5}")),
    ]
    scores = accuracy.batch(pairs)
    assert [score.value for score in scores] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert [scores[2].reason, scores[4].reason] == ["no answer", "thought not closed"]


@pytest.mark.parametrize(
    ("kind", "gold", "text"),
    [("math", "12", "3+4=7, 7+5=12"), ("choice", "B", "I pick (B)"), ("exact", "Paris", "hm\nParis\n")],
)
def test_only_the_lenient_reward_takes_a_bare_answer(kind: str, gold: str, text: str) -> None:
    task = Task("t", "?", kind=kind, gold=gold)
    assert lenient_accuracy(task, said(text)).value == 1.0
    assert accuracy(task, said(text)).value == 0.0
    assert lenient_accuracy(task, said("<think>" + text)).value == 0.0


@pytest.mark.parametrize(
    "text",
    [
        *("**Answer:** B", "**Answer**: B", "Answer: $B$", "Answer: B: Paris", r"Answer: \text{B}", "Answer: `B`"),
        *("Answer: [B]", "Answer: B;", "答案为B", "The answer is option B.", "Answer: B, A is wrong"),
        *("Answer: B, A and C are wrong", "The answer is B, C and D being too small.", "Answer: B, B"),
    ],
)
def test_a_letter_may_be_stated_in_bold_or_as_a_formula(text):
    assert final_answer(Completion(text, answer=text), "choice") == "B"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Answer: B or C",
            "Answer: [B] or [C]",
            "Answer: `B`, `C`",
            "Answer: B; C",
            "Answer: A, B, C, D",
            "答案为B或C",
        ),
        *(
            "Answer: A, and B",
            "Answer: A, or B",
            "Answer: A, A, B",
            "Answer: A, B, A",
            "Answer: A. or B",
            "The answer is (A), (B), and (C). So it is.",
        ),
    ],
)
def test_two_letters_are_no_answer(text):
    assert final_answer(Completion(text, answer=text), "choice") is None


@pytest.mark.parametrize("text", ["Answer: A dog", "The answer is I think B", "Answer: Because"])
def test_a_word_after_answer_is_no_letter(text):
    assert final_answer(Completion(text, answer=text), "choice") is None


def test_what_is_set_in_bold_or_as_text_is_what_it_says():
    assert letter(r"\textbf{(B)}") == "B"
    for said in (r"\boxed{\text{Monday}}", "<answer>**Monday**</answer>"):
        assert accuracy(Task("1", "q", "exact", "Monday"), Completion(said, answer=said)).value == 1


@pytest.mark.parametrize(
    "said", ["answer is" + "\n" * 40_000 + "x", "answer" + "*" * 20_000, "Answer: A" + ", B" * 20_000 + "x"]
)
def test_white_space_and_stars_and_letters_without_end_are_read_in_no_time(said):
    began = time.monotonic()
    final_answer(Completion(said, answer=said), "choice")
    assert time.monotonic() - began < 1


EXPAND = "Expand the product $(x+2)(x+5)$."
DISGUISED = (
    *("((x+2)(x+5))", "0+(x+2)(x+5)", r"1\cdot (x+2)(x+5)", "(x+2)(x+5)+0", r"(x+2)(x+5)\cdot 1", "y=(x+2)(x+5)"),
    *(r"\displaystyle (x+2)(x+5)", r"\left((x+2)\cdot(x+5)\right)", "（(x+2)(x+5)）", "(x+5)(x+2)"),
)
DETERMINANT = r"\begin{vmatrix} 7 & 3 \\ -1 & 2 \end{vmatrix}"


@pytest.mark.parametrize(
    ("question", "gold", "answer", "value"),
    [
        ("Expand the product ${(x+2)(x+5)}$.", "x^2 + 7x + 10", "(x+2)(x+5)", 0),
        ("Expand the product ${(x+2)(x+5)}$.", "x^2 + 7x + 10", "x^2+7x+10", 1),
        ("Factor $t^2-49$.", "(t-7)(t+7)", "t^2 - 49", 0),
        ("Factor $t^2-49$.", "(t-7)(t+7)", "(t+7)(t-7)", 1),
        (r"Compute $\cos \left( \arcsin \frac{2}{3} \right).$", r"\frac{\sqrt{5}}{3}", r"\cos(\arcsin \frac{2}{3})", 0),
        (r"Let $x$ and $y$ be numbers with \[x + y = 6.\] Find the maximum.", "6", "x + y = 6", 0),
        (rf"Compute \[{DETERMINANT}.\]", "17", DETERMINANT, 0),
        (r"Write $\frac{5}{8}$ as a decimal.", "0.625", r"\frac58", 0),
        (r"Simplify $\frac{36}{54}$.", r"\frac{2}{3}", r"\frac{36}{54}", 0),
        (r"Heads has probability $\frac14$ and gains a dollar. What is expected?", "0.25", r"\frac{1}{4}", 1),
        (r"Of $\frac{7}{10}, \frac{4}{5}$ and $\frac{3}{4}$, which is the mean?", r"\frac34", r"\frac{3}{4}", 1),
        (r"One angle is $50^\circ$. What is the other?", "50", r"50^{\circ}", 1),
        ("Of $-3$ and $2$, which is less?", "-3.0", "-3", 1),
        ("Which of $x^2-1$ and $x^2+1$ has real roots?", "x^{2} - 1", "x^2-1", 1),
        *((EXPAND, "x^2+7x+10", copy, 0) for copy in DISGUISED),
        *((EXPAND, "x^2+7x+10", "(x+2)(x+5) = x^2+7x+10", 1), (EXPAND, "x^2+7x+10", "10+x^2+7x", 1)),
        (r"Let $x$ and $y$ be numbers with \[x + y = 6.\] Find the maximum.", "6", "0+x+y=6", 0),
        ("Factor $f(x)=t^2-49$.", "(t-7)(t+7)", "t^2-49", 0),
        ("Factor $f(x)=t^2-49$.", "(t-7)(t+7)", "-49+t^2", 0),
        ("Factor $f(x)=t^2-49$.", "(t-7)(t+7)", "f(x)=t^2-49=(t+7)(t-7)", 1),
        (r"What is $\sqrt{53}$ in simplest form?", r"\sqrt{53}", r"(\sqrt{53})", 1),
        (r"Simplify $5\sqrt{3}-4\sqrt{3}$.", r"\sqrt{3}", r"5\sqrt{3}-4\sqrt{3}=\sqrt{3}", 1),
        (r"Simplify $\frac{2}{\sqrt{2}}$.", r"\sqrt{2}", r"\frac{2}{\sqrt2}=\sqrt2", 1),
        (r"Simplify $\frac{(x+1)^2}{x+1}$.", "x+1", r"$\frac{(x+1)^2}{x+1}=x+1$", 1),
        ("Write $2x^2-x^2$ as one term.", "x^2", "2x^2-x^2=x^2", 1),
        (EXPAND, "x^2+7x+10", "(x+2)(x+5)=0+(x+2)(x+5)=(x+5)(x+2)", 0),
        ("Let $f(x)=1/x$. Find $f^{-1}(x)$.", r"\frac{1}{x}", "1/x", 1),
    ],
)  # fmt: skip
def test_a_formula_copied_from_the_question_is_not_worked_out(
    question: str, gold: str, answer: str, value: float
) -> None:
    score = accuracy(Task("t", question, "math", gold), said(f"<think>so</think> \\boxed{{{answer}}}"))
    assert score.value == value, score.reason
    assert value == 1 or "not worked out" in score.reason
