"""One sample as the pages show it: its parts, what it was taken to answer, what it earned and why, and its faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from thinkery.core import Completion
from thinkery.rewards.extract import bare_answer, final_answer
from thinkery.rewards.language import language_share
from thinkery.rewards.shaping import repetition

LONGEST = 12_000
"""Characters of a part that a page shows; the rest is one click away, as plain text."""
MEASURED = 20_000
"""Characters of a text in which repetition and languages are looked for."""

FAULTS = {
    "wrong-but-formatted": "wrong but formatted",
    "cut": "cut at the limit",
    "repeated": "repeats itself",
    "mixed": "mixes languages",
    "ungraded": "ungraded",
}
"""What a sample can be filtered by, as it stands in addresses and as it is called."""

REPEATED, MIXED = 0.3, 0.95
"""From which repetition on a sample repeats itself, and below which share of its language it mixes languages."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of the record with what a reader wants to know about it."""

    row: Mapping[str, Any]
    extracted: str | None
    """The final answer that rules look at, None where it gives none."""
    thought_tokens: int
    """About how many of its tokens are thought: shared out by characters."""
    language: float | None
    """The share of the thought in the question's language."""
    faults: tuple[str, ...]

    @property
    def right(self) -> bool | None:
        """Whether it was judged right; None where accuracy was not judged."""
        value = self.row["scores"].get("accuracy", {}).get("value")
        return None if value is None else value >= 1


@dataclass(frozen=True, slots=True)
class Level:
    """What a group's rewards are compared with."""

    mean: float | None
    std: float | None


def sample(row: Mapping[str, Any]) -> Sample:
    """A row with its extracted answer, its languages and its faults."""
    thought, answer = row["thought"] or "", row["answer"] or ""
    said = Completion(row["text"], thought=row["thought"], answer=answer, closed=row["closed"])
    find = final_answer if row["kind"] in ("math", "choice") else bare_answer
    share = language_share(thought[:MEASURED], row["language"]) if thought and row["language"] else None
    characters = len(thought) + len(answer)
    return Sample(
        row=row,
        extracted=find(said, row["kind"]) if row["kind"] != "general" else None,
        thought_tokens=round(row["tokens"] * len(thought) / characters) if characters else 0,
        language=share,
        faults=tuple(faults(row, share)),
    )


def faults(row: Mapping[str, Any], language: float | None) -> list[str]:
    """The names in `FAULTS` that fit a row."""
    scores = {name: score["value"] for name, score in row["scores"].items()}
    found = {
        "wrong-but-formatted": scores.get("accuracy") == 0 and scores.get("format") == 1,
        "cut": row["finish"] == "length",
        "repeated": repetition(row["text"][:MEASURED]) > REPEATED,
        "mixed": language is not None and language < MIXED,
        "ungraded": row["reward"] is None,
    }
    return [name for name, fits in found.items() if fits]


def level(rows: Sequence[Mapping[str, Any]]) -> Level:
    """Mean and standard deviation of a group's graded rewards."""
    graded = [row["reward"] for row in rows if row["reward"] is not None]
    return Level(fmean(graded), pstdev(graded)) if graded else Level(None, None)
