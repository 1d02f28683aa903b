"""Ratings from ranks against worked-out contests."""

import pytest

from thinkery.evals.codeforces import percentile, rank_of, rating_of
from thinkery.evals.kinds import Participant

STANDINGS = [
    Participant(points=3000, penalty=0, rating=2000),
    Participant(points=2000, penalty=50, rating=1500),
    Participant(points=2000, penalty=60, rating=1400),
    Participant(points=0, penalty=0, rating=800),
]


@pytest.mark.parametrize(
    ("points", "penalty", "rank"),
    [(4000, 0, 0), (3000, 0, 1), (2000, 55, 2), (2000, 60, 3), (1, 999, 3), (0, 0, 4), (0, 1, 4)],
)
def test_a_rank_counts_everyone_who_is_not_worse_by_points_and_then_by_penalty(points, penalty, rank):
    assert rank_of(points, penalty, STANDINGS) == rank


def test_the_rating_is_the_one_whose_expected_rank_is_the_rank():
    # Among four of 1500, a 1500 expects to be third: 1 + 4 · ½. One point more and it expects better.
    assert rating_of(3, [1500] * 4) == 1500
    # Second: 1 + 4p + (nearly 1 for the one of 4000) = 3 needs p = 1/4, so 400 · log10(3) = 190.8 above the four.
    assert rating_of(3, [1500] * 4 + [4000]) == 1690


def test_a_winner_is_rated_just_below_a_hundred_above_the_best():
    assert rating_of(0, [1200, 1900]) == 1999
    assert rating_of(1, [1500] * 4) == 1599


def test_the_last_of_a_strong_field_is_rated_zero():
    assert rating_of(5, [3000] * 4) == 0
    assert rating_of(1, []) == 99  # nobody to compare with: the bound is all there is


def test_an_uneven_field_is_solved_by_bisection():
    ratings = [2400, 1900, 1700, 1500, 1200]

    def expected(rating):
        return 1 + sum(1 / (1 + 10 ** ((rating - other) / 400)) for other in ratings)

    rating = rating_of(3, ratings)
    assert expected(rating) >= 3 > expected(rating + 1)


def test_a_percentile_counts_the_users_strictly_below():
    assert percentile(1500, {1400: 30, 1500: 50, 1600: 20}) == 30.0
    assert percentile(1501, {1400: 30, 1500: 50, 1600: 20}) == 80.0
    assert percentile(1, {1400: 1, 1500: 2}) == 0.0
    assert percentile(1450, {1400: 1, 1500: 2}) == 33.3
