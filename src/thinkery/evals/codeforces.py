"""The Codeforces rating of one contest, as CodeElo computes it: which rating would have expected this rank?

    rank = rank_of(points, penalty, standings)          # 0: better than everyone
    rating = rating_of(rank, [row.rating for row in standings])
    percentile(rating, histogram)                       # 96.3: better than 96.3 % of the users

A participant of rating r is expected to be beaten by one of rating q with probability 1 / (1 + 10^((r - q) / 400)).
Only the contest's own penalty counts; where problems have points, 50 less per wrong attempt is already in `points`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from thinkery.errors import InputError
from thinkery.tasks.public import public_file

HEADROOM = 100
"""The bisection ends this far above the best participant, so that a winner's rating is finite."""


class Participant(Protocol):
    """A row of the standings: what it scored, and the rating it came with."""

    @property
    def points(self) -> float: ...
    @property
    def penalty(self) -> float: ...
    @property
    def rating(self) -> float: ...


def rank_of(points: float, penalty: float, standings: Sequence[Participant]) -> int:
    """How many participants are not worse: by fewer points or, where points are equal, by more penalty."""
    return sum((row.points, -row.penalty) >= (points, -penalty) for row in standings)


def rating_of(rank: int, ratings: Sequence[float]) -> int:
    """The whole rating, from 0, whose expected rank among these ratings is `rank`, by bisection."""
    low, high = 0, int(max([0.0, *ratings])) + HEADROOM
    while high - low > 1:
        middle = (low + high) // 2
        if _expected_rank(middle, ratings) < rank:
            high = middle
        else:
            low = middle
    return low


def percentile(rating: float, histogram: Mapping[int, int]) -> float:
    """The share of users below a rating, in percent to one decimal; the histogram counts users by rating."""
    below = sum(users for value, users in histogram.items() if value < rating)
    return round(below / sum(histogram.values()) * 100, 1)


def users_by_rating() -> Mapping[int, int]:
    """How many users had each rating in 2024; empty where THINKERY_DATA does not have it."""
    try:
        return _read_users(public_file("codeforces/ratings_2024.json"))
    except InputError:
        return {}


@functools.cache
def _read_users(path: Path) -> Mapping[int, int]:
    return {int(rating): users for rating, users in json.loads(path.read_text()).items()}


def _expected_rank(rating: int, ratings: Sequence[float]) -> float:
    """One more than the number of those who are expected to do better."""
    expected = 1.0
    for other in ratings:
        expected += 1 / (1 + 10 ** ((rating - other) / 400))
    return expected
