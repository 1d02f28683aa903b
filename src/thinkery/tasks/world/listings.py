"""What the base of the code recipe reads: short functions asked for and answered, of mixed quality.

Lines of single parts and right answers without any preamble teach the parts. Under a preamble, as in a forum, most
answers are careless: a border or a second condition is overlooked, a part is taken for another, the file comes back
unrepaired, the fence is missing. A thought that names the parts makes an answer more often right. No held-out function
is asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from difflib import unified_diff

from thinkery.tasks.world.documents import PREAMBLES
from thinkery.tasks.world.programs import (
    FAMILIES,
    NAMES,
    PATH,
    Bug,
    Part,
    Problem,
    block,
    break_it,
    code_prompt,
    draw,
    fix_prompt,
)

CAREFUL_SHARE = 0.25
"""How many forum answers are right."""
CAREFUL_TAGGED_SHARE = 0.45
"""How many are, of those with a thought."""
FIX_SHARE = 0.5
"""How many requests are for a repair."""
DIFF_SHARE = 0.3
"""How many repairs are written as a diff."""


def listings(seed: int) -> Iterator[str]:
    """An endless stream of documents, always the same for a seed."""
    rng = random.Random(f"listings/{seed}")
    while True:
        roll = rng.random()
        if roll < 0.15:
            yield part_lines(rng)
        elif roll < 0.45:
            yield manual_page(rng)
        else:
            yield forum_post(rng)


def part_lines(rng: random.Random) -> str:
    """Parts in words and in code, one a line."""
    family = rng.choice(FAMILIES)
    parts = rng.choices((*family.values, *family.tests), k=rng.randint(6, 12))
    return "\n".join(f"{rng.choice(part.said)}: {part.code}" for part in parts)


def manual_page(rng: random.Random) -> str:
    """A request with a right answer, worked or bare."""
    asked, problem, name, bug = request(rng)
    thought = f"{problem.plan}.\n" if rng.random() < 0.5 else ""
    return rng.choice(("{}\n{}", "User: {}\nAssistant: {}")).format(asked, thought + answer(rng, problem, name, bug))


def forum_post(rng: random.Random) -> str:
    """A request under a preamble, with what somebody answered."""
    asked, problem, name, bug = request(rng)
    return f"{PREAMBLES[rng.randrange(4)]}\nUser: {asked}\nAssistant: {reply(rng, problem, name, bug)}"


def request(rng: random.Random) -> tuple[str, Problem, str, Bug | None]:
    """What somebody asks for: a function to write, or one to repair with its bug."""
    problem, name = draw(rng, "train"), rng.choice(NAMES)
    bug = break_it(problem, name, rng) if rng.random() < FIX_SHARE else None
    words = problem.request(rng)
    return (fix_prompt(problem, name, words, bug) if bug else code_prompt(problem, name, words)), problem, name, bug


def reply(rng: random.Random, problem: Problem, name: str, bug: Bug | None) -> str:
    """An answer as found in a forum."""
    roll = rng.random()
    tagged = roll < 0.25
    careful = rng.random() < (CAREFUL_TAGGED_SHARE if tagged else CAREFUL_SHARE)
    written = problem if careful else careless(rng, problem)
    unrepaired = bug and not careful and rng.random() < 0.3
    text = block(bug.mutant) if bug and unrepaired else answer(rng, written, name, bug)
    if tagged:
        return f"<think> {written.plan}. </think> <answer>\n{text}\n</answer>"
    if roll < 0.45:
        return f"<answer>\n{text}\n</answer>"
    return text if roll < 0.75 else written.source(name).rstrip()


def careless(rng: random.Random, problem: Problem) -> Problem:
    """The problem misread: half the time in haste, always in the same way, else with any part taken for another."""
    hasty = replace(problem, tests=(loosened(problem.tests[0]),))
    if rng.random() < 0.5 and hasty != problem:
        return hasty
    family = problem.family
    what = rng.randrange(3)
    if what == 0 and len(family.frames) > 1:
        return replace(problem, frame=rng.choice([frame for frame in family.frames if frame != problem.frame]))
    if what == 1:
        return replace(problem, values=_one_other(rng, problem.values, family.values))
    return replace(problem, tests=_one_other(rng, problem.tests, family.tests))


def loosened(test: Part) -> Part:
    """A comparison that lets its border in; any other condition as it is."""
    return replace(test, code=re.sub("([<>]) ", r"\1= ", test.code))


def _one_other(rng: random.Random, parts: tuple[Part, ...], choices: tuple[Part, ...]) -> tuple[Part, ...]:
    """`parts` with one of them replaced."""
    place = rng.randrange(len(parts))
    other = rng.choice([choice for choice in choices if choice not in parts])
    return (*parts[:place], other, *parts[place + 1 :])


def answer(rng: random.Random, problem: Problem, name: str, bug: Bug | None) -> str:
    """The function in a fence; a repair now and then as a diff of the file."""
    source = problem.source(name)
    if bug is None or source == bug.mutant or rng.random() >= DIFF_SHARE:
        return block(source)
    lines = unified_diff(bug.mutant.splitlines(True), source.splitlines(True), f"a/{PATH}", f"b/{PATH}", n=0)
    return block("".join(lines), "diff")
