"""How many pairs a core compares in a second: the answers of public MATH problems that are no plain numbers.

    THINKERY_DATA=… pytest -m slow -s tests/rewards/test_math_throughput.py

Of the answers given, two fifths are the reference as it stands, one fifth is another writing of it, and in two fifths
one number is wrong. No gold answer occurs twice, so nothing that was read or decided before helps.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from pathlib import Path

import pytest

from thinkery.rewards.math_answer import MathPool
from thinkery.tasks.public import data_root
from thinkery.tasks.sources import Source, load_tasks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU time of other processes is read from /proc"),
]
PLAIN = re.compile(r"[-+\d.,$\\! ]+")
WRITINGS = (("\\frac", "\\dfrac"), (" ", ""), ("\\left", ""), ("\\right", ""))


def ordinary_pairs(rng: random.Random) -> list[tuple[str, str]]:
    """Every gold answer of MATH's training problems that is no plain number, with an answer to compare it with."""
    tasks = load_tasks([Source(source="math")])
    golds = list(dict.fromkeys(task.gold for task in tasks if task.gold and not PLAIN.fullmatch(task.gold)))
    rng.shuffle(golds)
    return [(gold, rng.choice([same, same, rewritten, changed, changed])(gold, rng)) for gold in golds]


def same(gold: str, rng: random.Random) -> str:
    """The reference as it stands."""
    return gold


def rewritten(gold: str, rng: random.Random) -> str:
    """The reference in another writing, in dollars."""
    for old, new in WRITINGS[:2] if rng.random() < 0.5 else WRITINGS[2:]:
        gold = gold.replace(old, new)
    return f"${gold}$"


def changed(gold: str, rng: random.Random) -> str:
    """The reference with another number in one place."""
    numbers = list(re.finditer(r"\d+", gold))
    if not numbers:
        return f"{gold}+1"
    place = rng.choice(numbers)
    return f"{gold[: place.start()]}{int(place[0]) + rng.randint(1, 9)}{gold[place.end() :]}"


def cpu_s(group: int) -> float:
    """Seconds of CPU that the processes of a group have used, and those they have outlived."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15])) if fields[2] == str(group) else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def test_a_core_compares_at_least_three_hundred_ordinary_pairs_a_second() -> None:
    pairs = ordinary_pairs(random.Random(0))
    first, pool = MathPool(workers=1), MathPool(workers=1)
    poison = [pair for pair, score in zip(pairs, first.grade(pairs), strict=True) if "longer than" in score.reason]
    first.close()
    assert len(poison) < 0.01 * len(pairs)  # such as \tan \theta = 2\theta, which sympy cannot solve
    ordinary = [pair for pair in pairs if pair not in poison]

    pool.grade([("1/2", "0.5")])  # started
    group = next(worker for worker in pool._idle.queue if worker)._process.pid
    here, there = time.process_time(), cpu_s(group)
    scores = pool.grade(ordinary)
    here, there = time.process_time() - here, cpu_s(group) - there
    pool.close()
    ungraded = [score.reason for score in scores if score.value is None]
    print(f"{len(ordinary) / (here + there):.0f} pairs a second of CPU: {len(ordinary)} pairs, {here:.1f} s here,")
    print(f"{there:.1f} s in the worker; {sum(score.value == 1 for score in scores)} equal; {len(ungraded)} ungraded:")
    print(*ungraded, *poison, sep="\n")
    assert len(ungraded) < 0.01 * len(ordinary)
    assert len(ordinary) / (here + there) >= 300
