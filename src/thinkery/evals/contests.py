"""Codeforces: what rating would a model have had in real contests? (R1 v2 §D.1: rating and percentile.)

The user's file has a contest a line: {"contest": "1919", "problems": [{"name", "statement", "tests": [{"stdin",
"stdout"}], "points"?}], "standings": [{"points", "penalty", "rating"}]}. The attempts at a problem count as
submissions in the order of their numbers: the first that passes all tests solves it, those before it are the wrong
ones. Where problems have points, each wrong one costs 50, never more than 70 % of the problem; where they have none, a
solved problem is one point and each wrong one 10 minutes of penalty. The time that a person needs is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from thinkery.core import Group, Task
from thinkery.errors import InputError
from thinkery.evals import codeforces
from thinkery.evals.metrics import Estimate, mean_estimate
from thinkery.evals.programs import PROGRAM
from thinkery.tasks.files import Place

WRONG_POINTS, LEAST, WRONG_MINUTES = 50, 0.3, 10


@dataclass(slots=True)
class Row:
    """A row of the standings: what was scored, and the rating it came with."""

    points: float
    penalty: float
    rating: float = 0.0


def contests(rows: Iterable[Place]) -> Iterator[Task]:
    """The problems of every contest, each with its contest's standings."""
    for where, row in rows:
        try:
            standings = [{name: one[name] for name in ("points", "penalty", "rating")} for one in row["standings"]]
            for problem in row["problems"]:
                info = {"contest": str(row["contest"]), "points": problem.get("points"), "tests": problem["tests"]}
                prompt = f"{problem['statement'].strip()}\n\n{PROGRAM}"
                id = f"codeforces/{row['contest']}/{problem['name']}"
                yield Task(id, prompt, "code", None, "en", "codeforces", info=info | {"standings": standings})
        except (KeyError, TypeError, AttributeError) as problem:
            hint = 'a line is {"contest", "problems": [{"name", "statement", "tests"}], "standings": [{"points", …}]}'
            raise InputError(f"not a contest: {type(problem).__name__}: {problem}", where=where, hint=hint) from problem


class Rating:
    """The mean rating over contests, and what share of users has less."""

    names = ("rating", "percentile")

    def __init__(self) -> None:
        self._scored: dict[str, Row] = {}
        self._standings: dict[str, list[Row]] = {}

    def add(self, group: Group) -> None:
        """Take in the attempts at one problem."""
        info = group.task.info
        if info["contest"] not in self._scored:
            self._scored[info["contest"]] = Row(0, 0)
            self._standings[info["contest"]] = [Row(**one) for one in info["standings"]]
        mine = self._scored[info["contest"]]
        points, penalty = earned(group, info["points"])
        mine.points += points
        mine.penalty += penalty

    def estimates(self) -> dict[str, Estimate]:
        """The rating with its interval over contests, and the percentile, from 0 to 1, of its mean and ends."""
        ratings = [float(self._rating(contest)) for contest in self._scored]
        if not ratings:
            return {}
        rating = mean_estimate(ratings)
        return {"rating": rating} | ({"percentile": share_below(rating)} if codeforces.users_by_rating() else {})

    def notes(self) -> list[str]:
        """What the numbers leave out."""
        users = codeforces.users_by_rating()
        missing = [] if users else ["no percentile: codeforces/ratings_2024.json of THINKERY_DATA is needed"]
        return ["time is not counted in the rating", *missing]

    def _rating(self, contest: str) -> int:
        standings, mine = self._standings[contest], self._scored[contest]
        rank = codeforces.rank_of(mine.points, mine.penalty, standings)
        return codeforces.rating_of(rank, [row.rating for row in standings])


def share_below(rating: Estimate) -> Estimate:
    """The share of users below a rating, and below the ends of its interval."""
    users = codeforces.users_by_rating()

    def below(one: float) -> float:
        return codeforces.percentile(one, users) / 100

    low, high = (None if end is None else below(end) for end in (rating["low"], rating["high"]))
    return Estimate(value=below(rating["value"]), low=low, high=high, n=rating["n"])


def earned(group: Group, points: float | None) -> tuple[float, float]:
    """(points, penalty) of the attempts at one problem; an ungraded attempt is no submission."""
    submissions = [score.value for r in group.rollouts if (score := r.scores["accuracy"]).value is not None]
    if 1.0 not in submissions:
        return 0.0, 0.0
    wrong = submissions.index(1.0)
    if points is None:
        return 1.0, float(WRONG_MINUTES * wrong)
    return max(LEAST * points, points - WRONG_POINTS * wrong), 0.0
