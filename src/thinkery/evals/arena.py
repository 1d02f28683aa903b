"""Arena-Hard v0.1: how often a model is preferred to the baseline, by a Bradley-Terry model of judged battles.

A judge compares two answers and ends with one of five verdicts; `>>` counts as three battles, a tie as half a win.
Ratings are the maximum of the likelihood P(a beats b) = 1 / (1 + 10^(r_b - r_a)), and a model's score is its chance
against the baseline in percent. Intervals come from resampling the battles. Style control adds the difference of
two answers in length and markdown to the model, with the unit ridge of the published code, so that what is left
to the rating is not style (Arena-Hard-Auto, `utils_math.py` of v0.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from thinkery.evals.logistic import fit_l2

VERDICTS = {"A>>B": (1.0, 3), "A>B": (1.0, 1), "A=B": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, 3)}
"""What a verdict is worth to A, and how many battles it counts as."""
WINNERS = {"model_a": (1.0, 1), "model_b": (0.0, 1), "tie": (0.5, 1), "tie (bothbad)": (0.5, 1)} | VERDICTS
"""The same for every name of a winner: A is `model_a`."""
_VERDICT = re.compile(r"\[\[([AB<>=]+)\]\]")

Style = Literal["both", "length", "markdown"]
FEATURES: dict[Style, tuple[str, ...]] = {
    "both": ("sum_assistant_{}_tokens", "header_count_{}", "list_count_{}", "bold_count_{}"),
    "length": ("sum_assistant_{}_tokens",),
    "markdown": ("header_count_{}", "list_count_{}", "bold_count_{}"),
}
"""The fields of a battle's `conv_metadata` that a style control reads; {} is a or b."""

UNPENALISED = 1e-7
"""The ridge without style control: too small to see, it keeps the rating of a model that lost no battle finite."""
PENALISED = 0.5
"""The ridge with style control; half of the published unit ridge, whose code counts every battle twice."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's chance against the baseline in percent, with a 95 % interval."""

    score: float
    low: float
    high: float


def verdict(judgement: str) -> str | None:
    """The label in double brackets that a judgement ends with; None when it has none, or several that differ."""
    found = set(_VERDICT.findall(judgement))
    return found.pop() if len(found) == 1 else None


def outcome(winner: str) -> tuple[float, int]:
    """What a battle is worth to model_a, and how many it counts as; ValueError for an unknown winner."""
    if winner not in WINNERS:
        raise ValueError(f"winner {winner!r} is none of {', '.join(WINNERS)}")
    return WINNERS[winner]


class Battles:
    """Battles as they come in; equal ones are counted, so that memory does not grow with their number.

    With a style control, battles are equal only where the styles are as well.
    """

    def __init__(self, style: Style | None = None) -> None:
        self.features = FEATURES[style] if style else ()
        self._models: dict[str, int] = {}
        self._counts: dict[tuple[Any, ...], int] = {}

    def add(self, model_a: str, model_b: str, winner: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Count one battle; raises ValueError for an unknown winner, or where the style is not known."""
        won, times = outcome(winner)
        styles = [_contrast(metadata, field) for field in self.features]
        a, b = (self._models.setdefault(model, len(self._models)) for model in (model_a, model_b))
        battle = (a, b, won, *styles)
        self._counts[battle] = self._counts.get(battle, 0) + times

    def __len__(self) -> int:
        return sum(self._counts.values())

    def standings(self, baseline: str, *, rounds: int = 100, seed: int = 42) -> dict[str, Standing]:
        """Every model against the baseline, best first; raises ValueError when the baseline took part in no battle."""
        if baseline not in self._models:
            raise ValueError(f"the baseline {baseline!r} is in no battle; there are {', '.join(sorted(self._models))}")
        anchor, counts = self._models[baseline], np.array(list(self._counts.values()), dtype=float)
        design, won = self._design(counts)
        ridge = PENALISED if self.features else UNPENALISED
        fitted = fit_l2(design, won, counts, ridge)
        scores = self._against(anchor, fitted)
        resampled = []
        for drawn in np.random.default_rng(seed).multinomial(int(counts.sum()), counts / counts.sum(), size=rounds):
            fought = np.abs(design[:, : len(self._models)]).T @ drawn > 0
            won_against = self._against(anchor, fit_l2(design, won, drawn, ridge, start=fitted))
            resampled.append(np.where(fought, won_against, np.nan))
        low, high = np.nanpercentile(resampled, [2.5, 97.5], axis=0)
        found = {m: Standing(float(scores[i]), float(low[i]), float(high[i])) for m, i in self._models.items()}
        return dict(sorted(found.items(), key=lambda pair: -pair[1].score))

    def _design(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A row for every distinct battle, and what A won: who fought, and the styles in units of their spread.

        The columns of models are scaled so that a weight of 1 is 400 points of rating.
        """
        table = np.array(list(self._counts), dtype=float)
        a, b, styles = table[:, 0].astype(int), table[:, 1].astype(int), table[:, 3:]
        models = np.log(10) * (np.eye(len(self._models))[a] - np.eye(len(self._models))[b])
        if self.features:
            mean = np.average(styles, axis=0, weights=counts)
            spread = np.sqrt(np.average((styles - mean) ** 2, axis=0, weights=counts))
            styles = (styles - mean) / np.where(spread > 0, spread, 1)
        return np.hstack([models, styles]), table[:, 2]

    def _against(self, anchor: int, weights: np.ndarray) -> np.ndarray:
        """Every model's chance against the anchor in percent."""
        ratings = weights[: len(self._models)]
        return 100 / (1 + 10 ** (ratings[anchor] - ratings))


def _contrast(metadata: Mapping[str, Any] | None, field: str) -> float:
    """How much more of a feature answer A has, relative to both; a count may be split, as in {"h1": 2, "h2": 3}."""
    try:
        a, b = (_count((metadata or {})[field.format(side)]) for side in "ab")
    except (KeyError, TypeError) as problem:
        raise ValueError(f"style control needs {field.format('a')} and …_b in conv_metadata") from problem
    return (a - b) / (a + b + 1)


def _count(value: Any) -> float:
    return float(sum(value.values()) if isinstance(value, Mapping) else value)
