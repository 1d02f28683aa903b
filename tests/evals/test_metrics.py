"""Estimates against worked-out numbers."""

import math

import numpy as np
import pytest

from thinkery.evals.metrics import cons_at_k, mean_estimate, paired_difference, pass_at_k, share_estimate, t_quantile


@pytest.mark.parametrize(("dof", "value"), [(1, 12.706), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (399, 1.966)])
def test_student_quantiles_match_the_printed_tables(dof, value):
    assert t_quantile(dof) == pytest.approx(value, abs=1e-3)


def test_a_mean_of_three_has_the_textbook_interval():
    estimate = mean_estimate([1.0, 2.0, 3.0])  # s = 1, error = 1/sqrt 3, t(2) = 4.303
    assert estimate["value"] == 2.0
    assert estimate["high"] == pytest.approx(2 + 4.303 / math.sqrt(3))
    assert estimate["low"] == pytest.approx(2 - 4.303 / math.sqrt(3))


def test_one_question_has_a_value_and_no_interval():
    assert mean_estimate([5.0]) == {"value": 5.0, "low": None, "high": None, "n": 1}


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="no questions"):
        share_estimate([])


def test_yes_or_no_questions_get_close_to_wilsons_interval():
    estimate = share_estimate([1.0] * 30 + [0.0] * 70)
    # Wilson with z = 1.96, p = 0.3, n = 100 is (0.2189, 0.3958); t(99) = 1.984 and n - 1 widen it a little.
    assert estimate["low"] == pytest.approx(0.2189, abs=0.004)
    assert estimate["high"] == pytest.approx(0.3958, abs=0.004)


def test_all_wrong_and_all_right_keep_a_width():
    none = share_estimate([0.0] * 400)
    assert (none["value"], none["low"]) == (0.0, 0.0)
    assert none["high"] == pytest.approx(1.966**2 / (400 + 1.966**2), abs=1e-4)
    whole = share_estimate([1.0] * 400)
    assert (whole["value"], whole["high"]) == (1.0, 1.0)
    assert whole["low"] == pytest.approx(1 - none["high"])


def test_more_attempts_at_the_same_spread_of_questions_do_not_narrow_the_interval():
    shares = [1.0, 0.0] * 50
    assert share_estimate(shares, samples=64) == share_estimate(shares, samples=1) | {
        "low": share_estimate(shares, samples=64)["low"],
        "high": share_estimate(shares, samples=64)["high"],
    }
    narrow, wide = share_estimate(shares, samples=64), share_estimate(shares)
    assert narrow["high"] - narrow["low"] == pytest.approx(wide["high"] - wide["low"], rel=0.02)


def test_questions_that_agree_are_limited_by_the_attempts_made():
    estimate = share_estimate([0.5] * 25, samples=4)  # as 100 attempts, half of them right
    z = t_quantile(24)
    assert estimate["high"] == pytest.approx(0.5 + z * math.sqrt(0.25 / 100 + z * z / 40000) / (1 + z * z / 100))


def test_a_paired_difference_uses_the_shared_questions_only():
    before = {f"q{i}": 0.0 for i in range(50)} | {"only before": 1.0}
    after = {f"q{i}": float(i % 2) for i in range(50)} | {"only after": 0.0}
    estimate = paired_difference(before, after)
    assert (estimate["value"], estimate["n"]) == (0.5, 50)
    assert estimate["low"] == pytest.approx(0.5 - 1.96 * math.sqrt(0.25 / 50), abs=0.03)
    # with one more up by 1 and one down: the squares about 0.5 add up to 50/4 + 1/4 + 9/4, and t(49) = 2.0096
    assert estimate["high"] == pytest.approx(0.5 + 2.0096 * math.sqrt(15 / 52 / 52), abs=1e-3)
    assert paired_difference(before, after) == estimate
    with pytest.raises(ValueError, match="no question is in both"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5  # 3 of the 6 pairs hold it
    assert pass_at_k(16, 1, 16) == 1.0
    assert pass_at_k(4, 0, 4) == 0.0
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)


def test_the_majority_decides_and_silence_does_not_vote():
    assert cons_at_k([("4", True), ("5", False), ("4", True), (None, False)]) == 1.0
    assert cons_at_k([("5", False), ("5", False), ("4", True)]) == 0.0
    assert cons_at_k([(None, False), (None, False), (None, False), ("4", True)]) == 1.0
    assert cons_at_k([(None, False)]) == 0.0


def test_a_right_answer_written_two_ways_is_one_answer():
    assert cons_at_k([("1/2", True), ("0.5", True), ("5", False), ("2", False)]) == 1.0


def test_a_tie_earns_what_a_random_choice_among_the_leaders_would():
    assert cons_at_k([("4", True), ("5", False)]) == 0.5
    assert cons_at_k([("4", True), ("5", False), ("6", False)]) == pytest.approx(1 / 3)


def test_the_change_of_one_question_has_no_interval():
    assert paired_difference({"a": 0.0}, {"a": 1.0}) == {"value": 1.0, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize(
    ("questions", "attempts", "before", "after"),
    [
        (3, 1, 0.2, 0.5),
        (10, 1, 0.5, 0.7),
        (30, 1, 0.02, 0.05),
        (30, 4, 0.01, 0.02),
        (30, 64, 0.5, 0.5),
        (50, 1, 0.95, 0.99),
    ],
)
def test_paired_intervals_hold_the_truth_nineteen_times_of_twenty(questions, attempts, before, after):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        was, now = (dict(enumerate(rng.binomial(attempts, p, questions) / attempts)) for p in (before, after))
        found = paired_difference(was, now)
        held += found["low"] <= after - before <= found["high"]
    assert held >= 0.95 * 400 - 9  # two standard errors of 400 draws


def test_questions_of_which_none_changed_leave_room_for_a_rare_change():
    found = paired_difference(dict.fromkeys(range(30), 1.0), dict.fromkeys(range(30), 1.0))
    assert found["value"] == 0
    assert found["high"] == -found["low"] == pytest.approx(2.0452 * math.sqrt(2 / 32 / 32), abs=1e-3)
