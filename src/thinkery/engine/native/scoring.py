"""What a model thinks of a text that is given: the log-probability of every token after those before it.

Shapes: T tokens, D width, V vocabulary, N alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from thinkery.engine.native.engine import NativeEngine

ROWS = 512
"""Tokens whose logits are held at once."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One token of a text: its log-probability, and the likeliest tokens in its place."""

    logprob: float
    alternatives: tuple[tuple[int, float], ...]


@torch.inference_mode()
def score_text(engine: NativeEngine, tokens: Sequence[int], alternatives: int) -> list[Scored]:
    """Every token but the first, which nothing comes before; under softmax(logits)."""
    if len(tokens) < 2:
        return []
    tokens_T = torch.tensor(tokens, device=next(engine.learner.parameters()).device)
    hidden_TD = engine.learner.packed(tokens_T, [len(tokens)])[:-1]
    found: list[Scored] = []
    for some_TD, next_T in zip(hidden_TD.split(ROWS), tokens_T[1:].split(ROWS), strict=True):
        logprobs_TV = engine.learner.logits(some_TD).float().log_softmax(-1)
        said = logprobs_TV.gather(1, next_T[:, None])[:, 0].tolist()
        values_TN, ids_TN = logprobs_TV.topk(min(alternatives, logprobs_TV.shape[1]))
        likeliest = [
            tuple(zip(ids, values, strict=True))
            for ids, values in zip(ids_TN.tolist(), values_TN.tolist(), strict=True)
        ]
        found += [Scored(*pair) for pair in zip(said, likeliest, strict=True)]
    return found
