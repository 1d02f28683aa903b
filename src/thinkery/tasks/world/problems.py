"""The embedded world's checkable problems: many easy steps, so that thinking pays and guessing does not.

Two kinds, each in English and in Chinese:

    chain (math)     Start with 12. Add 7. Take 3. … What is the result?      running total inside 0-99
    cups  (choice)   The ball is under C. Swap A and C. … Where is the ball?   six cups, A to F

A problem belongs to the held-out split by a hash of its canonical form, which ignores the order of the
steps: neither a held-out problem nor a permutation of one is ever made for training or for the corpus.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from thinkery.core import Task

Language = Literal["en", "zh"]
Split = Literal["train", "held-out"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
CUPS = "ABCDEF"
LARGEST = 9
"""The largest number that a chain adds or takes."""
HELD_OUT_SHARE = 0.1

STEPS = (4, 5, 6, 7)
"""Numbers of steps seen in training."""
LONGER = (8, 9, 10)
"""Numbers of steps that no training saw."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A start and the steps that follow: ("add", 7) or ("take", 3) in a chain, ("A", "C") swaps with cups."""

    kind: Literal["chain", "cups"]
    start: int | str
    steps: tuple[tuple[str, int | str], ...]

    @property
    def states(self) -> tuple[int | str, ...]:
        """Where things stand before the first step and after each."""
        states: list[int | str] = [self.start]
        for step in self.steps:
            states.append(advance(states[-1], step))
        return tuple(states)

    @property
    def gold(self) -> str:
        """The right answer."""
        return str(self.states[-1])

    @property
    def canonical(self) -> str:
        """The problem without the order of its steps."""
        steps = sorted("".join(map(str, sorted(map(str, s)) if self.kind == "cups" else s)) for s in self.steps)
        return f"{self.kind} {self.start} {' '.join(steps)}"

    @property
    def held_out(self) -> bool:
        """Whether this problem, and every reordering of it, is kept for evaluation."""
        digest = blake2b(self.canonical.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64


def advance(state: int | str, step: tuple[str, int | str]) -> int | str:
    """One step: arithmetic on a number, a swap on a cup."""
    first, second = step
    if isinstance(state, int):
        return state + int(second) if first == "add" else state - int(second)
    return {first: str(second), str(second): first}.get(state, state)


def draw(rng: random.Random, kind: Literal["chain", "cups"], count: int) -> Problem:
    """A random problem of `count` steps, of any split."""
    if kind == "cups":
        swaps = tuple((a, b) for a, b in (rng.sample(CUPS, 2) for _ in range(count)))
        return Problem("cups", rng.choice(CUPS), swaps)
    start = total = rng.randint(5, 90)
    steps: list[tuple[str, int | str]] = []
    for _ in range(count):
        moves = [
            (word, n)
            for word, sign in (("add", 1), ("take", -1))
            for n in range(1, LARGEST + 1)
            if 0 <= total + sign * n <= 99
        ]
        word, n = rng.choice(moves)
        steps.append((word, n))
        total += n if word == "add" else -n
    return Problem("chain", start, tuple(steps))


def draw_from(rng: random.Random, split: Split, kind: Literal["chain", "cups"], count: int) -> Problem:
    """A random problem of one split."""
    while True:
        problem = draw(rng, kind, count)
        if problem.held_out == (split == "held-out"):
            return problem


def question(problem: Problem, language: Language) -> str:
    """The problem in words."""
    if problem.kind == "chain":
        if language == "en":
            steps = " ".join(f"{'Add' if w == 'add' else 'Take'} {n}." for w, n in problem.steps)
            return f"Start with {problem.start}. {steps} What is the result?"
        steps = "".join(f"{'加' if w == 'add' else '减'} {n}，" for w, n in problem.steps)
        return f"从 {problem.start} 开始，{steps}结果是多少？"
    if language == "en":
        steps = " ".join(f"Swap {a} and {b}." for a, b in problem.steps)
        return f"The ball is under {problem.start}. {steps} Where is the ball?"
    steps = "".join(f"换 {a} 和 {b}，" for a, b in problem.steps)
    return f"球在 {problem.start}，{steps}球在哪里？"


def worked_step(state: int | str, step: tuple[str, int | str], after: int | str, language: Language) -> str:
    """One line of thought: `12 plus 7 is 19.` or `swap A C, at A.`"""
    first, second = step
    if isinstance(state, int):
        if language == "en":
            return f"{state} {'plus' if first == 'add' else 'minus'} {second} is {after}."
        return f"{state} {'加' if first == 'add' else '减'} {second} 得 {after}。"
    if language == "en":
        return f"{state}, swap {first} {second}, at {after}."
    return f"{state}，换 {first} {second}，在 {after}。"


def task(problem: Problem, language: Language) -> Task:
    """The problem as something to ask."""
    asked = question(problem, language)
    digest = blake2b(f"{asked}".encode(), digest_size=6).hexdigest()
    return Task(
        id=f"world/{problem.kind}/{digest}",
        prompt=asked,
        kind="math" if problem.kind == "chain" else "choice",
        gold=problem.gold,
        language=language,
        source=f"world/{problem.kind}",
        info={"difficulty": len(problem.steps)},
    )


def problems(
    split: Split,
    seed: int,
    count: int,
    *,
    kinds: Sequence[Literal["chain", "cups"]] = ("chain", "cups"),
    steps: Sequence[int] = STEPS,
) -> Iterator[Task]:
    """`count` different problems, kinds, languages and lengths evenly mixed, always the same for a seed."""
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    while len(seen) < count:
        n = len(seen)
        made = task(
            draw_from(rng, split, kinds[n % len(kinds)], steps[(n // (2 * len(kinds))) % len(steps)]),
            LANGUAGES[(n // len(kinds)) % 2],
        )
        if made.id not in seen:
            seen.add(made.id)
            yield made
