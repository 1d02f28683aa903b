"""Two measurements of the same questions: how far apart, with what certainty, and which questions changed.

    change = compare(read_sheet(rows_before), read_sheet(rows_after))
    change.difference        # {"value": 0.04, "low": 0.01, "high": 0.07, "n": 400}
    change.lost              # questions that were mostly right and no longer are

The questions are the same, so the interval is that of their differences: it sees a change that two separate intervals
would hide. Questions that share an id and no words are not compared. Rows are those of the record (`docs/record.md`)
and of `thinkery eval`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from thinkery.errors import InputError
from thinkery.evals.metrics import Estimate, mean_estimate, paired_difference, share_estimate
from thinkery.pipeline.files import read_rows as whole_rows
from thinkery.pipeline.read import RunRecord, open_run
from thinkery.tasks.files import read_rows

EXAM = "eval-"
"""How the steps that measure a stage are named: eval-zero measures zero."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One measurement: for each question the mean score of its attempts, and its words."""

    scores: Mapping[str, float]
    prompts: Mapping[str, str]
    samples: int = 1
    """Attempts at each."""

    def estimate(self) -> Estimate:
        """The mean over questions; Wilson's interval where every score is a share."""
        scores = list(self.scores.values())
        return (
            share_estimate(scores, self.samples) if all(0 <= score <= 1 for score in scores) else mean_estimate(scores)
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two sheets on the questions both have."""

    difference: Estimate
    gained: tuple[str, ...]
    """Questions that went from wrong to right; right is a mean score of a half or more."""
    lost: tuple[str, ...]
    """Questions that went from right to wrong."""
    other: int = 0
    """How many ids name different questions in the two, which are left out."""


def compare(before: Sheet, after: Sheet) -> Change:
    """The change from one sheet to another; InputError when they share no question."""
    named = [id for id in before.scores if id in after.scores]
    shared = [id for id in named if before.prompts[id] == after.prompts[id]]
    if not shared:
        found = f"{len(named)} ids that name other questions" if named else ""
        raise InputError(
            "the two share no question", found=found, hint="compare measurements of the same tasks and seed"
        )
    earned, earns = ({id: sheet.scores[id] for id in shared} for sheet in (before, after))
    was, now = ({id: sheet.scores[id] >= 0.5 for id in shared} for sheet in (before, after))
    return Change(
        difference=paired_difference(earned, earns),
        gained=tuple(id for id in shared if now[id] and not was[id]),
        lost=tuple(id for id in shared if was[id] and not now[id]),
        other=len(named) - len(shared),
    )


def read_sheet(rows: Iterable[Mapping[str, Any]], reward: str = "accuracy") -> Sheet:
    """The sheet of judged attempts; an attempt that the reward did not grade is left out."""
    scores: dict[str, list[float]] = {}
    prompts: dict[str, str] = {}
    for row in rows:
        value = row["scores"].get(reward, {}).get("value")
        if value is not None:
            scores.setdefault(row["task"], []).append(value)
            prompts[row["task"]] = row["prompt"]
    samples = max(map(len, scores.values()), default=1)
    return Sheet({id: fmean(values) for id, values in scores.items()}, prompts, samples)


def open_all(names: Iterable[str], reward: str = "accuracy") -> dict[str, Sheet]:
    """The sheets of several names; where two runs have a stage of one name, each is called RUN:STAGE."""
    opened = {name: open_sheets(name, reward) for name in names}
    times = Counter(sheet for sheets in opened.values() for sheet in sheets)
    return {
        f"{name}:{sheet}" if any(times[one] > 1 for one in sheets) else sheet: found
        for name, sheets in opened.items()
        for sheet, found in sheets.items()
    }


def open_sheets(name: str, reward: str = "accuracy") -> dict[str, Sheet]:
    """What a name means: RUN:STAGE is that stage's exam, RUN every exam of the run, else attempts in a file or folder.

    InputError when there is nothing of the kind, or the reward graded nothing in it.
    """
    run, _, stage = name.rpartition(":")
    if (Path(name) / "run.json").is_file():
        sheets = _exams(open_run(Path(name)), reward)
    elif run and (Path(run) / "run.json").is_file():
        sheets = {name: read_sheet(_attempts(open_run(Path(run)), stage), reward)}
    else:
        from thinkery.evals.attempts import ATTEMPTS  # brings the engines, which load torch

        file = Path(name) / ATTEMPTS if Path(name).is_dir() else Path(name)
        rows = whole_rows(file) if Path(name).is_dir() else (row for _, row in read_rows(file))
        sheets = {name: read_sheet(rows, reward)}
    for found, sheet in sheets.items():
        if not sheet.scores:
            raise InputError(f"no attempt has a score called {reward!r}", where=found, hint="--reward NAME")
    return sheets


def _exams(run: RunRecord, reward: str) -> dict[str, Sheet]:
    """Every finished exam of a run, by stage, in the order of the graph."""
    done = [name for name, step in run.steps.items() if name.startswith(EXAM) and step.status == "done"]
    if not done:
        raise InputError("no exam of this run is done", where=str(run.path), hint="name a stage, as RUN:STAGE")
    return {name.removeprefix(EXAM): read_sheet(_attempts(run, name), reward) for name in done}


def _attempts(run: RunRecord, stage: str) -> list[dict[str, Any]]:
    """The attempts of a stage's exam, all of them, or else the last that the step itself recorded."""
    step = EXAM + stage if EXAM + stage in run.steps else stage
    numbers = run.rollout_steps(step)
    if not numbers:
        raise InputError(f"step {step!r} has recorded no attempts", where=str(run.path))
    exam = run.steps[step].kind == "Report"
    return [row for number in (numbers if exam else numbers[-1:]) for row in run.rollouts(step, number)]
