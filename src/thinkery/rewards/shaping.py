"""Rewards for how an answer is written, which may join any stage's rubric: length, repetition, reflection, citations.

None is part of R1's recipe. Each is off while its weight in `Shaping` is 0:

    [reason.shaping]
    overlong = 1.0          # weight of DAPO's soft punishment
    overlong_buffer = 4096

    Rubric(accuracy=accuracy, format=thinks, **shaping(cfg.shaping, longest))
"""

from __future__ import annotations

import re

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Completion, Reward, Score, Task, rule
from thinkery.rewards.rubric import Part
from thinkery.rewards.units import ngrams

REFLECTION = re.compile(
    r"\b(?:wait|mistake|however|but|retry|error|verify|wrong|evaluate|check)\b|等等|不对|错误|检查|验证|但是",
    re.IGNORECASE,
)
"""The words whose rise R1 v2 follows as a sign of reflection, and Chinese ones."""
ENOUGH_REFLECTION = 3
"""Words of reflection beyond which more of them earn nothing."""
_NOTE = re.compile(r"\[(?:webpage |note |document )?(\d{1,3})(?: begin)?\]", re.IGNORECASE)
_CITATION = re.compile(r"\[(?:citation:)?(\d{1,3})\]", re.IGNORECASE)


class Shaping(Config):
    """Weights of the rewards for how an answer is written; 0 leaves a reward out."""

    overlong: float = 0.0
    """Weight of DAPO's soft punishment of long completions, from 0 down to −1."""
    overlong_buffer: int = Field(default=4096, gt=0)
    """The last tokens before the limit, over which the punishment grows (L_cache; DAPO: 4,096 of 20,480)."""
    repetition: float = 0.0
    """Weight of minus the share of 8-grams that occurred before."""
    reflection: float = 0.0
    """Weight of the first three words of reflection. R1 only counts them: paid for, they come without the thing."""
    citations: float = 0.0
    """Weight of the citations that name a note the task gave, on tasks that give notes."""


def shaping(cfg: Shaping, longest: int) -> dict[str, Part]:
    """The parts of a rubric that `cfg` gives a weight, by name; `longest` is the limit of a completion in tokens."""
    parts = {
        "overlong": Part(overlong(longest, cfg.overlong_buffer), cfg.overlong, full_marks=0.0),
        "repetition": Part(unrepeated, cfg.repetition, full_marks=0.0),
        "reflection": Part(reflects, cfg.reflection, full_marks=0.0),
        "citations": Part(cites, cfg.citations, applies=has_notes, full_marks=0.0),
    }
    return {name: part for name, part in parts.items() if part.weight}


def overlong(longest: int, buffer: int) -> Reward:
    """DAPO's soft overlong punishment (2503.14476, eq. 13) for a limit L_max = `longest` and L_cache = `buffer`.

    0 up to L_max − L_cache tokens, then (L_max − L_cache − length) / L_cache, and −1 beyond L_max. With 20,480 and
    4,096: 16,384 tokens cost 0, 18,432 cost 0.5, a completion cut at the limit costs 1.
    """
    free = longest - buffer

    @rule
    def punishment(task: Task, completion: Completion) -> Score:
        length = len(completion.tokens)
        value = max(-1.0, min(0.0, (free - length) / buffer))
        return Score(value, f"{length} of {longest} tokens, {free} of them free")

    return punishment


@rule
def unrepeated(task: Task, completion: Completion) -> Score:
    """0 for fresh text, down to −1 for a loop."""
    share = repetition(completion.text)
    return Score(-share, f"{share:.0%} of the 8-grams occurred before")


def repetition(text: str, n: int = 8) -> float:
    """The share of a text's n-grams (words, or characters of Chinese) that occurred in it before; 0 for short texts."""
    found = ngrams(text, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


@rule
def reflects(task: Task, completion: Completion) -> Score:
    """A third for each of the first three words of reflection in the thought."""
    count = reflections(completion.thought or "")
    return Score(min(count, ENOUGH_REFLECTION) / ENOUGH_REFLECTION, f"{count} words of reflection")


def reflections(text: str) -> int:
    """How many words of reflection a text has."""
    return len(REFLECTION.findall(text))


@rule
def cites(task: Task, completion: Completion) -> Score:
    """The share of the answer's citations, `[3]` or `[citation:3]`, that name a note it was given; 0 without any."""
    cited, notes = _CITATION.findall(completion.answer), _notes(task)
    right = sum(number in notes for number in cited)
    return Score(right / len(cited) if cited else 0.0, f"{right} of {len(cited)} citations name a note")


def has_notes(task: Task) -> bool:
    """Whether a task gives notes to cite."""
    return bool(_notes(task))


def _notes(task: Task) -> set[str]:
    """The numbers of the notes, `[3]` or `[webpage 3 begin]`, in what was said before and in thoughts put before it."""
    given = [text for message in task.messages for text in (message.content, message.thought or "")]
    return set(_NOTE.findall("\n".join(given)))
