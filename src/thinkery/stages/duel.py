"""Two models' answers to the same exam, side by side: whose earn more of a reward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from statistics import fmean
from typing import Any

from thinkery.config import Config
from thinkery.errors import InputError
from thinkery.evals.metrics import share_estimate
from thinkery.pipeline.artifact import Report
from thinkery.pipeline.run import Run


class Duel(Config):
    """Settings of the comparison."""

    reward: str = "preference"
    """The reward that decides, one that both exams recorded."""
    margin: float = 0.1
    """A smaller difference is a tie, which counts half."""


def duel(run: Run, cfg: Duel, first: Report, second: Report) -> Report:
    """How often `first` wins: every attempt at a question against every attempt of `second` at it."""
    ours, theirs = (scores_by_task(report.attempts(), cfg.reward) for report in (first, second))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise InputError(f"no question has a {cfg.reward!r} score in both exams", where=run.step)
    wins = [fmean(outcome(a - b, cfg.margin) for a, b in product(ours[id], theirs[id])) for id in shared]
    stages = [report.data["stage"] for report in (first, second)]
    return run.save_report({"stage": "-vs-".join(stages), "metrics": {"wins": share_estimate(wins)}})


def outcome(difference: float, margin: float) -> float:
    """1 for a win, 0 for a loss, ½ for a tie."""
    return 0.5 if abs(difference) < margin else float(difference > 0)


def scores_by_task(rows: Iterable[Mapping[str, Any]], reward: str) -> dict[str, list[float]]:
    """The values of one reward by question; ungraded attempts are left out."""
    found: dict[str, list[float]] = {}
    for row in rows:
        value = row["scores"].get(reward, {}).get("value")
        if value is not None:
            found.setdefault(row["task"], []).append(value)
    return found
