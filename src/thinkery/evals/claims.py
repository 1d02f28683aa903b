"""The paper's claims, checked on a run: each is a plain function from the stage table to a verdict with its figures.

A claim whose stages or metrics a run does not have is left out. A gated claim that does not hold fails the run's gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from thinkery.evals.metrics import Estimate

Stages = Mapping[str, Mapping[str, Estimate]]

# The paper's names for its checkpoints, and the steps of the recipe that make them.
BASE, ZERO, DEV1, DEV2, DEV3, FINAL = "base", "zero", "cold-start", "reason", "refine", "align"
STUDENT, DISTILLED = "student", "distill"

GENERAL = "general"
"""The metric of general prompts: the share answered as asked."""
PREFERENCE = "preference"
"""The metric of how much a reader likes the final answers."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of the paper, whether it `holds` here, and the numbers it was decided on."""

    id: str
    text: str
    holds: bool
    figures: dict[str, float]
    gated: bool = False


def check_claims(stages: Stages) -> list[Claim]:
    """Every claim that this run can speak about, in the order of the paper's story."""
    return [claim for check in CLAIMS if (claim := check(stages))]


def zero_multiplies(stages: Stages) -> Claim | None:
    """Reinforcement learning alone multiplies accuracy: zero's pass@1 is at least three times the base's."""
    found = _figures(stages, "pass@1", BASE, ZERO)
    if not found:
        return None
    base, zero = found.values()
    text = "RL alone multiplies accuracy: zero's pass@1 is at least 3 × the base's"
    return Claim("zero-multiplies", text, zero > 0 and zero >= 3 * base, found, gated=True)


def cold_start_reads_better(stages: Stages) -> Claim | None:
    """The cold start mends zero's language mixing."""
    return _not_less(stages, "cold-start-readable", "language", ZERO, DEV1, "the cold start mixes languages no more")


def reasoning_returns(stages: Stages) -> Claim | None:
    """Reasoning RL restores the accuracy that the cold start cost."""
    return _not_less(stages, "reason-restores", "pass@1", DEV1, DEV2, "reasoning RL restores accuracy")


def refining_generalises(stages: Stages) -> Claim | None:
    """The large SFT mix lifts general tasks."""
    return _more(stages, "refine-generalises", GENERAL, DEV2, DEV3, "the large SFT mix lifts general tasks")


def aligning_pleases(stages: Stages) -> Claim | None:
    """The last RL stage mainly lifts preference."""
    return _more(stages, "align-preferred", PREFERENCE, DEV3, FINAL, "the last RL stage lifts preference")


def distilling_teaches(stages: Stages) -> Claim | None:
    """A small model that imitates the corpus beats its own base."""
    return _more(stages, "distill-teaches", "pass@1", STUDENT, DISTILLED, "a distilled student beats its own base")


CLAIMS: tuple[Callable[[Stages], Claim | None], ...] = (
    zero_multiplies,
    cold_start_reads_better,
    reasoning_returns,
    refining_generalises,
    aligning_pleases,
    distilling_teaches,
)


def _not_less(stages: Stages, id: str, metric: str, before: str, after: str, text: str) -> Claim | None:
    found = _figures(stages, metric, before, after)
    return Claim(id, f"{text}: {metric} of {after} ≥ {before}", _rises(found, 0), found) if found else None


def _more(stages: Stages, id: str, metric: str, before: str, after: str, text: str) -> Claim | None:
    found = _figures(stages, metric, before, after)
    return Claim(id, f"{text}: {metric} of {after} > {before}", _rises(found, 1e-9), found) if found else None


def _rises(figures: Mapping[str, float], by: float) -> bool:
    before, after = figures.values()
    return after - before >= by


def _figures(stages: Stages, metric: str, *names: str) -> dict[str, float]:
    """The metric's value in each of these stages; nothing when one of them lacks it."""
    if any(metric not in stages.get(name, {}) for name in names):
        return {}
    return {f"{name} {metric}": stages[name][metric]["value"] for name in names}
