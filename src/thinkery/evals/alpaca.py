"""AlpacaEval 2: how often a judge prefers a model's outputs to the baseline's, plain and with length held equal.

A preference lies between 1 (the baseline's output is better) and 2 (the model's); 0 is an old way to write a draw.
The length-controlled win rate asks what the judge would prefer if both outputs were equally long (Dubois et al.
2024): a logistic model of the preference on the difference in length, the difficulty of the instruction and the
model itself is fitted, and asked again with the length term set to 0.

Two tables belong to it, found in `alpaca_eval2/` of THINKERY_DATA: how difficult the 805 instructions are, and
preferences on verbose and concise variants of the baseline, which keep the fit from giving length too little weight.
Of the second, the official `df_gamed.csv` is used where it is, else a reconstruction; `Reference.source` says which.
Its licence (CC BY-NC 4.0) does not let this package carry it.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thinkery.errors import InputError
from thinkery.evals.logistic import fit_l1
from thinkery.tasks.public import public_file

INSTRUCTIONS = 805
GAMED_WEIGHT = 0.2 / 2
"""Weight of a row on each of the two variants of the baseline; a row on the model weighs 1."""
STRENGTHS = np.logspace(-4, 4, 10)
"""The inverse penalties that cross-validation chooses from."""
FOLDS = 5


def judged_preference(top_logprobs: Sequence[Mapping[str, Any]] | Mapping[str, float], switched: bool) -> float | None:
    """What the judge's first token says: 2 - P(m) / (P(m) + P(M)), "m" being the output it was shown first.

    `top_logprobs` are {"token", "logprob"} entries or a mapping from tokens to log-probabilities. `switched` says
    that the model's output was shown first. None when the judge considered neither token.
    """
    if not isinstance(top_logprobs, Mapping):
        top_logprobs = {entry["token"]: entry["logprob"] for entry in top_logprobs}
    first, second = (top_logprobs.get(token, -math.inf) for token in ("m", "M"))
    if max(first, second) == -math.inf:
        return None
    model, baseline = (first, second) if switched else (second, first)
    return 1 + math.exp(model - np.logaddexp(model, baseline))


def share_won(preference: float) -> float:
    """How far the model won, from 0 to 1; ValueError for what is not a preference."""
    if preference != 0 and not 1 <= preference <= 2:
        raise ValueError(f"preference {preference} is neither between 1 and 2 nor 0, a draw")
    return preference - 1 if preference else 0.5


@dataclass(frozen=True, slots=True)
class Reference:
    """What the length-controlled win rate needs besides the judgements, and whether it is the official data."""

    difficulty: np.ndarray
    """By instruction."""
    gamed_features: np.ndarray
    """A row each for every instruction and variant of the baseline."""
    gamed_wins: np.ndarray
    """How far the variant won, from 0 to 1."""
    source: str
    """"official" or "reconstructed"."""


def load_reference() -> Reference:
    """The tables of THINKERY_DATA; raises InputError when they are not there."""
    table = _read(public_file("alpaca_eval2/instruction_difficulty.csv"))
    difficulty = np.full(INSTRUCTIONS, np.nan)
    for row in table:
        difficulty[int(row["index"])] = float(row["instruction_difficulty"])
    path, source = _gamed_file()
    gamed = _read(path)
    features = [(math.tanh(float(r["std_delta_len"])), float(r["instruction_difficulty"]), 0.0) for r in gamed]
    return Reference(difficulty, np.array(features), np.array([float(r["preference"]) for r in gamed]), source)


class Judgements:
    """Judgements of one model as they come in: the instruction, the preference and two lengths of each are kept."""

    def __init__(self) -> None:
        self._index, self._wins = array("l"), array("d")
        self._gaps, self._lengths = array("l"), array("l")

    def add(self, index: int, won: float | None, baseline_length: int, model_length: int) -> None:
        """Take in one; None is a judgement that was not given, and counts for the lengths only."""
        if not 0 <= index < INSTRUCTIONS:
            raise ValueError(f"index {index} is none of the {INSTRUCTIONS} instructions")
        self._index.append(index)
        self._wins.append(math.nan if won is None else won)
        self._gaps.append(baseline_length - model_length)
        self._lengths.append(model_length)

    def __len__(self) -> int:
        return len(self._index)

    def plain(self) -> dict[str, Any]:
        """Win rates in percent over the `n` judged outputs; `avg_length` is in whole characters of all outputs."""
        wins = np.array(self._wins)
        wins = wins[~np.isnan(wins)]
        if not len(wins):
            return {"win_rate": None, "standard_error": None, "discrete_win_rate": None, "avg_length": None, "n": 0}
        error = float(100 * wins.std(ddof=1) / math.sqrt(len(wins))) if len(wins) > 1 else None
        return {
            "win_rate": float(100 * wins.mean()),
            "standard_error": error,
            "discrete_win_rate": float(100 * np.where(wins == 0.5, 0.5, wins > 0.5).mean()),
            "avg_length": int(np.mean(self._lengths)),
            "n": len(wins),
        }

    def length_controlled(self, reference: Reference) -> dict[str, float | None]:
        """Win rate in percent with lengths held equal, and its standard error; None where nothing was judged.

        With the official data the strength of the penalty is cross-validated, as published. The reconstruction
        gives the fit its sums but not a judge's spread, so that a loss on held-out rows of it says nothing: with
        it the penalty is the weakest, which is within 0.1 points of the published figure for 50 models tried.
        """
        wins, judged = np.array(self._wins), ~np.isnan(self._wins)
        if not judged.any():
            return {"lc_win_rate": None, "lc_standard_error": None}
        difficulty = reference.difficulty[np.array(self._index)]
        features = np.column_stack([self._length_terms(), difficulty, np.ones(len(self))])
        rows = np.concatenate([reference.gamed_features, features[judged]])
        targets = np.concatenate([reference.gamed_wins, wins[judged]])
        weights = np.repeat([GAMED_WEIGHT, 1.0], [len(reference.gamed_wins), judged.sum()])
        official = reference.source == "official"
        strength = cross_validate(rows, targets, weights) if official else STRENGTHS[-1]
        _, w_difficulty, w_model = fit_l1(rows, targets, weights, strength)
        equal = 100 / (1 + np.exp(-(w_difficulty * difficulty + w_model)))
        error = float(equal.std(ddof=1) / math.sqrt(len(equal))) if len(equal) > 1 else None
        return {"lc_win_rate": float(equal.mean()), "lc_standard_error": error}

    def _length_terms(self) -> np.ndarray:
        """How much longer the baseline's output is, in standard deviations, squashed."""
        gaps = np.array(self._gaps, dtype=float)
        spread = gaps.std(ddof=1) if len(gaps) > 1 else 0.0
        return np.tanh(gaps / spread) if spread else np.zeros(len(gaps))


def cross_validate(rows: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """The inverse penalty with the least loss on held-out rows; row i is in fold i mod 5."""
    folds = np.arange(len(rows)) % FOLDS
    return float(min(STRENGTHS, key=lambda strength: _held_out_loss(rows, targets, weights, strength, folds)))


def _held_out_loss(
    rows: np.ndarray, targets: np.ndarray, weights: np.ndarray, strength: float, folds: np.ndarray
) -> float:
    losses = []
    for fold in range(FOLDS):
        out = folds == fold
        z = rows[out] @ fit_l1(rows[~out], targets[~out], weights[~out], strength)
        losses.append(np.mean(weights[out] * (np.logaddexp(0, z) - targets[out] * z)))
    return float(np.mean(losses))


def _gamed_file() -> tuple[Path, str]:
    try:
        return public_file("alpaca_eval2/df_gamed.csv"), "official"
    except InputError:
        return public_file("alpaca_eval2/gamed_baseline_reconstructed.csv"), "reconstructed"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
