"""Comparing mathematical answers in processes that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thinkery.rewards.math_answer import MathPool, gradable, shared_pool
from thinkery.rewards.notation import usual

POISON = ("9^{9^{9^9}}", "2^{3^{4^{5^6}}}")


def child_of(parent: int) -> int:
    """The process that a process has forked."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(parent):
                return int(stat.parent.name)
    raise AssertionError("no child")


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    pool = MathPool(workers=1)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "1/2"),
        (r"2\frac12", "2 1/2"),
        ("2x^2", "2*x**2"),
        ("x^2-1", "(x-1)(x+1)"),
        (r"\left( 3, \frac{\pi}{2} \right)", "(3, π/2)"),
        (r"\text{Evelyn}", "Evelyn"),
        ("5", "The answer is 5."),
        ("5", "5 dollars"),
        ("18", r"\$18"),
        ("12", "5 + 7 = 12"),
        ("35000", r"$3.5 \times 10^4$"),
        ("90", r"90^\circ"),
        ("-2", "−2"),
        ("x=5", "5"),
    ],
)
def test_equal_answers_in_different_writing_are_right(pool: MathPool, gold: str, answer: str) -> None:
    assert pool.grade([(gold, answer)])[0].value == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "6"),
        ("2x^2", "2"),
        ("6-5i", "6"),
        ("5", "5 or 6"),
        ("12", "1 2"),
        (r"\frac{3 \sqrt{3}}{14}", r"\frac{3 \sqrt{5}}{14}"),
        ("x^2-1", "x^2+1"),
        ("(100,101)", "(100,102)"),
        ("5", "1, 2, 3, 4, 5"),
        ("5", "$4$ $5$"),
        ("15", "1 2 3 4 5"),
        ("5", r"\pm 5"),
        ("5", "x > 5"),
        ("5", "not maths at all {"),
    ],
)
def test_different_answers_are_wrong(pool: MathPool, gold: str, answer: str) -> None:
    assert pool.grade([(gold, answer)])[0].value == 0.0


@pytest.mark.parametrize("answer", ["3+4*5", "30-7", r"\frac{46}{2}", r"\sqrt{529}", "46/2"])
def test_a_sum_is_no_answer_to_what_is_the_sum(pool: MathPool, answer: str) -> None:
    score = pool.grade([("23", answer)])[0]
    assert score.value == 0.0
    assert "not worked out" in score.reason


def test_plain_numbers_are_compared_exactly_and_without_a_worker() -> None:
    pool = MathPool(workers=1, limit_s=0.0)  # any worker would be late
    pairs = [("5", "5"), ("1,000", "1000.0"), ("007", "7"), ("0.1", "0.10000001"), ("-3", "3"), ("$5$", "5.")]
    assert [score.value for score in pool.grade(pairs)] == [1.0, 1.0, 1.0, 0.0, 0.0, 1.0]


def test_formulas_written_alike_or_far_apart_need_no_worker() -> None:
    pool = MathPool(workers=1, limit_s=0.0)
    pairs = [
        (r"\frac{\pi}{2}", r"$\dfrac{\pi}{2}$"),
        (r"\frac{\pi}{2}", r"\frac{\pi}{3}"),
        ("3x^2 - y", "3 X^2-y."),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"(-\infty, 2]", r"(-\infty, 3]"),
    ]
    assert [score.value for score in pool.grade(pairs)] == [1.0, 0.0, 1.0, 1.0, 0.0]
    assert pool.gradable([r"\frac{\pi}{2}", "3x^2 - y"]) == [True, True]
    pool.close()


def test_a_pair_decided_once_is_not_compared_again() -> None:
    pool = MathPool(workers=1)
    pairs = [(r"\sqrt{8}", r"2\sqrt{2}"), ("x=5", "x=6")]
    first = pool.grade(pairs)
    pool.limit_s = 0.0  # any worker would be late
    assert pool.grade(pairs * 2) == first * 2
    assert [score.value for score in first] == [1.0, 0.0]
    pool.close()


def test_a_worker_killed_from_outside_costs_no_pair() -> None:
    pool = MathPool(workers=1)
    for n, victim in enumerate(["child", "child", "parent"], start=2):
        pair = (rf"\sqrt{{{n}}}", rf"\frac{{\sqrt{{{4 * n}}}}}{{2}}")
        assert [score.value for score in pool.grade([pair, ("x=1", f"x={n}")])] == [1.0, 0.0]
        parent = next(worker for worker in pool._idle.queue if worker)._process.pid
        os.kill(parent if victim == "parent" else child_of(parent), signal.SIGKILL)
    assert pool.grade([("x=1", "x=5")])[0].value == 0.0
    pool.close()


def test_a_poison_pair_costs_its_time_limit_and_nothing_else() -> None:
    pool = MathPool(workers=1, limit_s=1.0)
    pool.grade([("1/2", "0.5")])  # started
    begin = time.monotonic()
    scores = pool.grade([("1/3", "2/6"), POISON, ("1/4", "0.25")])
    took = time.monotonic() - begin
    pool.close()
    assert [score.value for score in scores] == [1.0, None, 1.0]
    assert "took longer than 1 s" in scores[1].reason
    assert "9^{9^{9^9}}" in scores[1].reason
    assert "2^{3^{4^{5^6}}}" in scores[1].reason
    assert 1.0 <= took < 10.0  # the limit and a fork, on a busy machine


def test_an_unreadable_gold_is_ungraded_whatever_the_answer(pool: MathPool) -> None:
    scores = pool.grade([("10^{", "10"), ("10^{", "10^{")])
    assert [score.value for score in scores] == [None, None]
    assert "gold" in scores[0].reason


def test_golds_are_gradable_when_they_can_be_read(pool: MathPool) -> None:
    assert pool.gradable(["5", r"\frac{1}{2}", "", "10^{", "5"]) == [True, True, False, False, True]


def test_the_shared_pool_answers_from_threads() -> None:
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(gradable, [r"\sqrt{2}", "(1,2)", "x+1", ""])) == [True, True, True, False]


def test_a_worker_is_replaced_after_its_share_of_pairs() -> None:
    pool = MathPool(workers=1, recycle=2)
    assert [score.value for score in pool.grade([("1/2", f"{n}/{2 * n}") for n in range(1, 6)])] == [1.0] * 5
    pool.close()


def test_workers_end_with_the_interpreter() -> None:
    code = (
        "from thinkery.rewards.math_answer import shared_pool, MathPool\n"
        "pool = shared_pool(); pool.grade([('1/2', '0.5')])\n"
        "print(next(w for w in pool._idle.queue if w)._process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert subprocess.run(["kill", "-0", done.stdout.strip()], capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("3,5", "x=3, x=5", 1),
        ("3,5", "$x = 3$ or $x = 5$", 1),
        ("10", r"10 \text{ m/s}", 1),
        ("10", "10 min", 1),
        ("60", "60 km/h", 1),
        ("90", "90°", 1),
        ("6", "**6**", 1),
        ("5e-05", "0.00005", 1),
        ("0.00005", r"5\times10^{-5}", 1),
        ("1000", "1e3", 1),
        ("4495", r"\dbinom{31}{28}", 0),
        ("6", r"{4 \choose 2}", 0),
        ("6", r"\cfrac{12}{2}", 0),
        ("6", r"{12 \over 2}", 0),
        ("6", r"\max(6,2)", 0),
        ("6", r"20 \mod 7", 0),
    ],
)
def test_usual_ways_to_write_a_number_are_it_and_the_question_copied_is_not(gold, answer, right):
    assert shared_pool().grade([(gold, answer)])[0].value == right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("-5", "-$5$", 1),
        ("5", "-$5$", 0),
        (r"\frac12", r"-$\frac12$", 0),
        ("1-x", "-$x-1$", 1),
        ("-x-1", "-$x-1$", 0),
        ("5", "1$5$", 0),
        ("15", "1$5$", 0),
        ("5", "$5$0", 0),
        ("5", "$5$/2", 0),
        ("5,-7", "$5$-$7$", 0),
        ("-5", "- $5$", 0),
        ("5", "- $5$", 0),
        ("3,5", "- $x=3$\n- $x=5$", 1),
        ("5", "**$5$**", 1),
        ("60", "$60$/hour", 1),
        ("5", "答案是$5$", 1),
        ("-5", "minus 5", 1),
        ("5", "minus 5", 0),
        ("-5", "The temperature is negative 5", 1),
        ("5", "negative 5", 0),
        ("5", "minus $5$", 0),
        ("-5", "负5", 1),
        ("3", "10 minus 7", 0),
        ("-7", "ten minus 7", 0),
        ("5", "not 5", 0),
        ("5", "The answer is not $5$", 0),
        ("5", "不是5", 0),
        ("5", "5 apples, not many", 1),
        ("-5", "The answer is not -$5$", 0),
        ("7", "12 minus 5 is $7$.", 1),
        ("7", "We get $7$, since 12 minus 5 is $7$", 1),
        ("5", "The result is $12$ minus $5$", 0),
        ("3", "$10 minus 3$", 0),
        ("-5", "等于负5", 1),
        ("-5", "不等于负$5$", 0),
    ],
)
def test_a_sign_or_a_word_before_a_number_is_read_with_it_or_nothing_is(pool, gold, answer, right):
    assert pool.grade([(gold, answer)])[0].value == right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("5", "- $x = 5$", 1),
        ("5", "Solution:\n- \\(x = 5\\)", 1),
        ("5", "- $5$ apples", 1),
        ("-5", "- $5$ apples", 0),
        ("5", "Final answer - $x=5$", 1),
        ("5", "Answer - $5$", 1),
        ("-5", "Answer - $5$", 0),
        ("5", "The answer is - $5$", 0),
        ("-5", "The answer is - $5$", 0),
        ("5", "Answer – 5", 1),
        ("-5", "Answer – 5", 0),
        ("5", "Result – \\(5\\)", 1),
        ("5", "– 5 apples", 1),
        ("5", "– $5$", 0),
        ("(2,-5)", "(2, –5)", 1),
        ("x-5", "x–5", 1),
        ("2x-5", "2x – 5", 1),
    ],
)
def test_a_dash_with_space_after_it_is_a_minus_only_after_an_operand(pool, gold, answer, right):
    assert pool.grade([(gold, answer)])[0].value == right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"2\sqrt{3}", r"2$\sqrt{3}$", 1),
        (r"\sqrt{3}", r"2$\sqrt{3}$", 0),
        ("2x", "2$x$", 1),
        ("10^5", "10$^5$", 1),
        ("3x+1", "$3x$+1", 1),
        ("60", r"$60$^\circ", 1),
        ("1", "x$=1$", 1),
        ("2x+1", "2$x+1$", 0),
        ("2x+2", "2$x+1$", 0),
        ("2x^2", "$2x$^2", 0),
        ("4x^2", "$2x$^2", 0),
        ("5", "n$5$", 0),
    ],
)
def test_what_is_glued_to_dollars_is_read_with_them_where_that_is_the_only_reading(pool, gold, answer, right):
    assert pool.grade([(gold, answer)])[0].value == right


def test_an_answer_that_cannot_be_read_one_way_is_wrong_and_says_so(pool):
    assert "two ways" in pool.grade([("15", "1$5$")])[0].reason
    assert "two ways" in pool.grade([(r"\sqrt{5}", "not 5")])[0].reason
    assert pool.grade([("10^{", "not 5")])[0].value is None


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("4210_5", "4210_{5}", 1),
        ("4210_5", "4210_{five}", 1),
        ("4210_5", "4210", 1),
        ("4210_5", "555_{10} = 4210_5", 1),
        ("4210_5", "4210_6", 0),
        ("4210_5", "4210_{six}", 0),
        ("4210_5", r"4210_6\,", 0),
        ("4210_5", "4210_5, 4210_6", 0),
        ("4210_5", "4211_5", 0),
    ],
)
def test_the_same_digits_in_another_base_are_another_number(pool, gold, answer, right):
    assert pool.grade([(gold, answer)])[0].value == right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"3.2\times10^{-8}", "0.000000032", 1),
        (r"3.2\times10^{-8}", "0.0", 0),
        (r"\frac{1}{1048576}", "0.000001", 0),
        (r"\frac{1}{1024}", "0.000977", 1),
        (r"\frac{1}{252}", "0.003968", 1),
        (r"\frac13", "0.333333", 1),
        (r"2\pi", "6.283185", 1),
        ("0.000001", r"0.0001\%", 1),
        ("36", r"36\%", 1),
        (r"\sqrt{6+4\sqrt2}-2-\sqrt2", "0", 1),
    ],
)
def test_a_rounded_answer_has_some_of_golds_digits(pool, gold, answer, right):
    assert pool.grade([(gold, answer)])[0].value == right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("10080", r"10\,080", 1),
        (r"10,\!080", r"10\,080", 1),
        ("1234567", r"1\,234\,567", 1),
        ("1000", "1 000", 1),
        ("100", "10 0", 0),
        ("10", r"1\,0", 0),
        ("-8", "–8", 1),
        ("x-1", "x – 1", 1),
        ("-2", "3–5", 0),
        ("5", "5。", 1),
        ("5", "答案是5。", 1),
        ("5", "所以，答案是：5个", 1),
        ("5", "共5元", 1),
        ("5", "5万", 0),
        ("5", "5个半", 0),
        ("1234", "1，234", 1),
        ("50", "50％", 1),
        ("1200", "1～200", 0),
        ("52", "5²", 0),
        ("21/2", "2½", 0),
        (r"\emptyset", r"\varnothing", 1),
    ],
)
def test_thousands_dashes_and_chinese_writings_are_read_where_they_say_one_thing(pool, gold, answer, right):
    assert pool.grade([(gold, answer)])[0].value == right


def test_writing_without_end_is_put_right_in_no_time():
    began = time.monotonic()
    for text in (
        "\\[" * 40_000,
        "- $5$\n" * 10_000,
        "答案" + " " * 40_000 + "x",
        "not" + " " * 40_000,
        "minus " * 10_000,
        "minus 5 $x$ " * 4_000,
        "{" * 40_000 + "$" + "(" * 4_000 + "$^2",
    ):
        usual(text)
        usual(text[:5000])
    assert time.monotonic() - began < 2
