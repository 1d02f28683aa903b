"""Do two networks hold the same weights? They give a fixed text, the canary, the same log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from thinkery.model.hf import formats_of

CANARY = "The quick brown fox jumps over the lazy dog. 12 + 30 = 42, and 7 * 8 = 56; so far, so good."
"""The text whose log-probabilities are compared."""


@torch.no_grad()
def text_logprobs(network: Any, tokens: Sequence[int]) -> list[float]:
    """The network's log-probability of every token but the first, under softmax(logits); in bfloat16 where only its
    matrices are."""
    formats, device = formats_of(network), next(network.parameters()).device
    tokens_T = torch.tensor(tokens, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=formats.vectors != formats.matrices):
        logits_TV = network.logits(network.packed(tokens_T, [len(tokens)])).float()
    return logits_TV.log_softmax(-1)[:-1].gather(-1, tokens_T[1:, None])[:, 0].tolist()


def gap(found: Sequence[float], expected: Sequence[float]) -> float:
    """How far apart log-probabilities of the same tokens are, in nats a token on average."""
    return fmean(abs(a - b) for a, b in zip(found, expected, strict=True))
