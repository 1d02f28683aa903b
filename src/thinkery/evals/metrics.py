"""The arithmetic of evaluation: shares and means with 95 % intervals over questions, pass@k, cons@k.

The question is the unit that was sampled, so the question is what intervals count: the k attempts at one
question are averaged first, and k times as many attempts do not make k times as many questions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict


class Estimate(TypedDict):
    """A number with its 95 % interval, over `n` questions; the bounds are None where n is too small to tell."""

    value: float
    low: float | None
    high: float | None
    n: int


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value per question, with Student's t interval; one question has no interval."""
    n = len(values)
    mean, error = _mean_and_error(values)
    if n == 1:
        return Estimate(value=mean, low=None, high=None, n=n)
    reach = t_quantile(n - 1) * error
    return Estimate(value=mean, low=mean - reach, high=mean + reach, n=n)


def share_estimate(shares: Sequence[float], samples: int = 1) -> Estimate:
    """Mean of one share in [0, 1] per question, each from `samples` attempts, with a Wilson interval.

    Wilson's score interval stays inside [0, 1] and keeps a width where every answer is right or wrong. Its number
    of trials is p(1 - p) / error², the trials that would explain the spread between questions (n when each question
    is 0 or 1), and never more than the attempts made; with no spread at 0 or 1 it is n.
    """
    n = len(shares)
    p, error = _mean_and_error(shares)
    spread = p * (1 - p)
    trials = n if n == 1 or spread == 0 else n * samples if error == 0 else min(spread / error**2, n * samples)
    z = t_quantile(n - 1) if n > 2 else 1.96
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * math.sqrt(spread / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return Estimate(value=p, low=min(p, max(0.0, centre - reach)), high=max(p, min(1.0, centre + reach)), n=n)


def paired_difference(before: Mapping[str, float], after: Mapping[str, float]) -> Estimate:
    """Mean of after - before over the questions both have, with Student's t interval as if two more were among them.

    Those two moved by the largest step that any question did, one up and one down (by 1 where none moved at all), as
    Agresti and Caffo add them. Without them a few questions that agree would be certain of what the rest would do. The
    bounds of shares stay between -1 and 1, and one question has none.
    """
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ValueError("no question is in both")
    gaps = [after[id] - before[id] for id in shared]
    n, value = len(gaps), math.fsum(gaps) / len(gaps)
    if n == 1:
        return Estimate(value=value, low=None, high=None, n=n)
    step = max(map(abs, gaps)) or 1.0
    variance = math.fsum((gap - value) ** 2 for gap in (*gaps, step, -step)) / (n + 2)
    reach = t_quantile(n - 1) * math.sqrt(variance / (n + 2))
    are_shares = all(0 <= scores[id] <= 1 for scores in (before, after) for id in shared)
    least, most = (-1.0, 1.0) if are_shares else (-math.inf, math.inf)
    return Estimate(value=value, low=max(least, value - reach), high=min(most, value + reach), n=n)


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that k of n attempts, drawn without replacement, hold a right one: 1 - C(n-c, k) / C(n, k)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= n and 0 <= right <= n, not n={n}, right={right}")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def cons_at_k(votes: Sequence[tuple[str | None, bool]]) -> float:
    """Whether the most frequent answer is right, from (answer, right) per attempt; no answer is no vote.

    Right answers are one answer however they are written; wrong ones are the same when their texts are. Where
    answers tie for the most votes, this is what a random choice among them would earn.
    """
    cast = Counter("right" if right else f"wrong: {answer}" for answer, right in votes if right or answer is not None)
    if not cast:
        return 0.0
    most = max(cast.values())
    leaders = [answer for answer, count in cast.items() if count == most]
    return ("right" in leaders) / len(leaders)


def t_quantile(dof: int) -> float:
    """The 97.5 % quantile of Student's t: a table to 4 degrees, then Fisher's expansion (error under 0.001)."""
    if dof < 5:
        return {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}[dof]
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / dof ** (i + 1) for i, term in enumerate(terms))


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error over questions."""
    if not values:
        raise ValueError("no questions, so no estimate")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
