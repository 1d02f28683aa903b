"""The embedded world's corpora: what a base model reads before anybody trains it to reason.

First textbooks: worked problems and lines of single steps, from which a step becomes reliable. Then a crawl, of
mixed quality like any. About problems: mostly bare answers, often wrong; some worked, of which
many skip steps, slip, or stop early; some mix languages; few stand inside the tags. Besides: single steps,
general questions answered well and badly, notes on words. No held-out problem occurs, nor a permutation of one.

Without the textbooks a model of this size had not learnt to copy a number from the question after 12 million tokens
of crawl; with them it copies after one million (LOG.md, 2026-11-23).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from thinkery.tasks.world.general import COLOURS, OPPOSITES, TOPICS, WORDS, draw_general, held_out, reference
from thinkery.tasks.world.problems import (
    CUPS,
    LANGUAGES,
    LARGEST,
    Language,
    Problem,
    advance,
    draw_from,
    question,
    worked_step,
)

ZERO_TEMPLATE = (
    "The assistant first thinks in <think> </think> and then answers in <answer> </answer>.\n"
    "User: {{ messages[-1].content }}\nAssistant:"
)
"""R1-Zero's prompt (v1 Table 1) cut to the world's size: structure only, no hint about strategy."""

PREAMBLES = (
    "The assistant first thinks in <think> </think> and then answers in <answer> </answer>.",
    "Think inside <think> </think>, then answer inside <answer> </answer>.",
    "The thought goes in <think> </think> and the answer in <answer> </answer>.",
    "The assistant answers in <answer> </answer> after a thought in <think> </think>.",
    "A talk between User and Assistant.",
    "The assistant answers the user.",
)

PARAPHRASED_SHARE = 0.35
"""How many answers use the tags for a thought under a preamble that paraphrases the one zero is asked with."""

CAREFUL_SHARE = 0.85
"""How many worked answers without tags make every step."""


def textbooks(seed: int) -> Iterator[str]:
    """An endless stream of worked problems and lines of single steps, always the same for a seed."""
    rng = random.Random(f"textbooks/{seed}")
    while True:
        yield worked_problem(rng) if rng.random() < 0.5 else step_lines(rng, rng.randint(8, 20))


def exercises(seed: int) -> Iterator[str]:
    """An endless stream of worked problems, mostly chains, which are harder to follow than cups."""
    rng = random.Random(f"exercises/{seed}")
    while True:
        yield worked_problem(rng, chains=0.85)


def worked_problem(rng: random.Random, chains: float = 0.6) -> str:
    """A problem with every step, in one language or both."""
    kind: Literal["chain", "cups"] = "chain" if rng.random() < chains else "cups"
    problem = draw_from(rng, "train", kind, rng.choice((2, 3, 4, 5, 6, 7)))
    language = rng.choice(LANGUAGES)
    thought, _ = worked(rng, problem, language, careful_share=1.0)
    return rng.choice(("{}\n{}", "User: {}\nAssistant: {}")).format(question(problem, language), thought)


def documents(seed: int, tagged: float = 0.06, careful: float = 0.38, halfway: float = 0.0) -> Iterator[str]:
    """An endless crawl, always the same for a seed.

    `tagged` is how many answers use the tags for a thought under the preamble that zero is asked with: the habit.
    `careful` is how many of the thoughts inside tags, under any preamble, make every step: the skill; `halfway` of the
    others stop after half of the steps.
    """
    rng = random.Random(f"crawl/{seed}")
    while True:
        roll = rng.random()
        if roll < 0.54:
            yield problem_document(rng, tagged, careful, halfway)
        elif roll < 0.68:
            yield step_lines(rng, rng.randint(3, 8))
        elif roll < 0.92:
            yield general_document(rng)
        else:
            yield word_note(rng)


def problem_document(rng: random.Random, tagged: float, careful: float, halfway: float) -> str:
    """A problem and what somebody answered."""
    kind: Literal["chain", "cups"] = "chain" if rng.random() < 0.55 else "cups"
    problem = draw_from(rng, "train", kind, rng.choice((2, 3, 4, 5, 6, 7)))
    language = rng.choice(LANGUAGES)
    roll = rng.random()
    if roll < 0.45:
        number = rng.randrange(4)
        answer = answered(rng, problem, language, PARAPHRASED_SHARE if number else tagged, careful, halfway)
        return f"{PREAMBLES[number]}\nUser: {question(problem, language)}\nAssistant:{answer}"
    asked = question(problem, language)
    if roll < 0.75:
        preamble = rng.choice((*PREAMBLES[4:], ""))
        head = f"{preamble}\n" if preamble else ""
        return f"{head}User: {asked}\nAssistant:{answered(rng, problem, language)}"
    return f"{asked}\n{answered(rng, problem, language).strip()}"


def answered(
    rng: random.Random,
    problem: Problem,
    language: Language,
    tagged: float = 0.0,
    careful: float = 0.0,
    halfway: float = 0.0,
) -> str:
    """An answer as found in the wild; `tagged` is the share with a thought inside the tags."""
    roll = rng.random()
    if roll < tagged:
        thought, answer = worked(rng, problem, language, careful, halfway)
        return f" <think> {thought} </think> <answer> {answer} </answer>"
    if tagged and roll < tagged + 0.20:
        return f" <answer> {guess(rng, problem)} </answer>"
    if roll < (0.95 if tagged else 0.45):
        return f" {guess(rng, problem)}"
    thought, answer = worked(rng, problem, language, CAREFUL_SHARE)
    ending = rng.choice(("{}", "\\boxed{{{}}}", "So \\boxed{{{}}}." if language == "en" else "所以 \\boxed{{{}}}。"))
    return f" {thought} {ending.format(answer)}"


def guess(rng: random.Random, problem: Problem) -> str:
    """A bare answer: right one time in ten, else near or anywhere."""
    if rng.random() < 0.1:
        return problem.gold
    if problem.kind == "cups":
        return rng.choice(CUPS)
    last = int(problem.gold)
    return str(min(99, max(0, last + rng.randint(-15, 15)))) if rng.random() < 0.7 else str(rng.randint(0, 99))


def worked(
    rng: random.Random, problem: Problem, language: Language, careful_share: float, halfway: float = 0.0
) -> tuple[str, str]:
    """A thought and the answer it leads to: careful, or it skips, slips or stops early; half mix languages.

    `halfway` is how many of those that are not careful stop after half of the steps.
    """
    careful = rng.random() < careful_share
    mixes = rng.random() < 0.5
    flaw = "" if careful else rng.choice(("skip", "slip", "stop"))
    if flaw and halfway and rng.random() < halfway:
        flaw = "halfway"
    flawed_at = rng.randrange(len(problem.steps))
    lines: list[str] = []
    state = problem.start
    for i, step in enumerate(problem.steps):
        tongue = rng.choice(LANGUAGES) if mixes else language
        after = advance(state, step)
        if isinstance(after, int):
            after = min(99, max(0, after))  # a flawed path may leave the world's numbers
        if i > 0 and ((flaw == "stop" and i >= flawed_at) or (flaw == "halfway" and i >= len(problem.steps) // 2)):
            break
        if flaw == "skip" and i > 0 and i >= flawed_at and i + 1 < len(problem.steps) and rng.random() < 0.7:
            state = wrong(rng, after)  # the step is not written and its effect is misremembered
            continue
        if flaw == "slip" and i == flawed_at:
            after = wrong(rng, after)
        elif rng.random() < 0.03:  # a slip that is noticed
            lines.append(worked_step(state, step, wrong(rng, after), tongue))
            lines.append("Wait, check." if tongue == "en" else "等等，检查。")
        lines.append(worked_step(state, step, after, tongue))
        state = after
    return " ".join(lines), str(state)


def wrong(rng: random.Random, state: int | str) -> int | str:
    """Another state, close by for numbers."""
    if isinstance(state, int):
        near = [n for n in range(max(0, state - 10), min(99, state + 10) + 1) if n != state]
        return rng.choice(near)
    return rng.choice([c for c in CUPS if c != state])


def step_lines(rng: random.Random, count: int) -> str:
    """Single right steps, one a line: the tables from which a step becomes reliable."""
    language = rng.choice(LANGUAGES)
    kind: Literal["chain", "cups"] = "chain" if rng.random() < 0.75 else "cups"
    lines = []
    for _ in range(count):
        problem = draw_from(rng, "train", kind, 1) if kind == "cups" else one_sum(rng)
        lines.append(worked_step(problem.start, problem.steps[0], problem.states[1], language))
    return "\n".join(lines)


def one_sum(rng: random.Random) -> Problem:
    """One sum with every running total from 0 to 99 and every small number equally likely."""
    while True:
        start, word, n = rng.randint(0, 99), rng.choice(("add", "take")), rng.randint(1, LARGEST)
        if 0 <= (start + n if word == "add" else start - n) <= 99:
            return Problem("chain", start, ((word, n),))


def general_document(rng: random.Random) -> str:
    """A general question with a courteous, a plain or, as often, a poor answer."""
    language = rng.choice(LANGUAGES)
    while held_out(asked := draw_general(rng, rng.choice(TOPICS), language)):
        pass
    quality = rng.choice(("courteous", "plain", "poor", "poor"))
    answer = reference(asked, quality, rng)
    if rng.random() < 0.4:
        preamble = rng.choice((*PREAMBLES, ""))
        head = f"{preamble}\n" if preamble else ""
        if preamble in PREAMBLES[:4] and rng.random() < 0.15:
            answer = f"<answer> {answer} </answer>"
        return f"{head}User: {asked.prompt}\nAssistant: {answer}"
    return f"{asked.prompt}\n{answer}"


def word_note(rng: random.Random) -> str:
    """Notes on words, colours and opposites."""
    lines = []
    for _ in range(rng.randint(2, 5)):
        roll = rng.random()
        if roll < 0.5:
            word = WORDS[rng.choice(list(WORDS))]
            lines.append(f"{word['en']} = {word['zh']}" if rng.random() < 0.5 else f"{word['zh']} = {word['en']}")
        elif roll < 0.8:
            language = rng.choice(LANGUAGES)
            thing, colour = COLOURS[rng.choice(list(COLOURS))][language]
            lines.append(f"{thing}: {colour}")
        else:
            pair = rng.choice(OPPOSITES[rng.choice(LANGUAGES)])
            lines.append(f"{pair[0]} ↔ {pair[1]}")
    return "\n".join(lines)
