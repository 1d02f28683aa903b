"""The rating of a model in contests, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.errors import InputError
from thinkery.evals.contests import Rating, earned
from thinkery.evals.suites import SUITES

TESTS = [{"stdin": "1", "stdout": "1"}]
STANDINGS = [{"points": p, "penalty": 0, "rating": r} for p, r in ((900, 1900), (500, 1500), (300, 1300), (0, 1100))]


def attempts(task: Task, *scores: float | None) -> Group:
    return Group(
        task, tuple(Rollout(task, (), Completion(""), {"accuracy": Score(s)}, s, i) for i, s in enumerate(scores))
    )


def problem(contest: str, points: float | None) -> Task:
    info = {"contest": contest, "points": points, "tests": TESTS, "standings": STANDINGS}
    return Task(f"codeforces/{contest}/{points}", "?", "code", info=info)


@pytest.mark.parametrize(
    ("scores", "points", "result"),
    [
        ((1.0, 0.0), 500, (500, 0)),
        ((0.0, None, 0.0, 1.0), 500, (400, 0)),  # two wrong submissions; an ungraded one is none
        ((0.0,) * 8 + (1.0,), 500, (150, 0)),  # 30 % of the problem at least
        ((0.0, 1.0), None, (1, 10)),
        ((0.0, None), 500, (0, 0)),
    ],
)
def test_wrong_submissions_before_the_right_one_cost(scores, points, result):
    assert earned(attempts(problem("1", points), *scores), points) == result


def test_the_rating_is_the_mean_over_contests_of_what_the_rank_is_worth(monkeypatch):
    monkeypatch.delenv("THINKERY_DATA", raising=False)
    found = Rating()
    found.add(attempts(problem("1", 500), 0.0, 1.0))
    found.add(attempts(problem("1", 250), 0.0, 0.0))  # 450 points: two are better, so the rank is 2
    found.add(attempts(problem("2", 500), 0.0, 0.0))  # none: everyone is not worse, so the rank is 4
    estimates = found.estimates()
    assert list(estimates) == ["rating"]
    assert estimates["rating"]["n"] == 2
    ranks = {
        rating: 1 + sum(1 / (1 + 10 ** ((rating - s["rating"]) / 400)) for s in STANDINGS) for rating in range(2001)
    }
    by_rank = [max(r for r, rank in ranks.items() if rank >= wanted) for wanted in (2, 4)]
    assert estimates["rating"]["value"] == pytest.approx(sum(by_rank) / 2)
    assert "no percentile" in found.notes()[1]


def test_contests_are_read_from_the_users_file(tmp_path: Path):
    contest = {
        "contest": 1919,
        "problems": [{"name": "A", "statement": "Echo.", "tests": TESTS, "points": 500}],
        "standings": STANDINGS,
    }
    (tmp_path / "contests.jsonl").write_text(json.dumps(contest) + "\n")
    benchmark = SUITES["codeforces"].benchmark("codeforces", seed=0, file=tmp_path / "contests.jsonl")
    assert [task.id for task in benchmark.tasks] == ["codeforces/1919/A"]
    assert {"rating", "percentile"} <= set(benchmark.metrics())
    (tmp_path / "other.jsonl").write_text('{"contest": 1}\n')
    with pytest.raises(InputError, match="not a contest"):
        SUITES["codeforces"].benchmark("codeforces", seed=0, file=tmp_path / "other.jsonl")
