"""From logits to tokens: one uniform number per token, decided by the sample's seed and position alone.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thinkery.core import Sampling

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw(
    logits_BV: Tensor,
    settings: Sequence[Sampling],
    uniforms_B: np.ndarray,
    allowed: Sequence[Sequence[int] | None],
) -> tuple[Tensor, Tensor]:
    """tokens_B and logprobs_B, by inverse CDF in vocabulary order.

    Log-probabilities are those of softmax(logits / temperature), before masks, top-p and top-k. Temperature 0
    takes the likeliest allowed token, and its log-probability under softmax(logits). `allowed[i]` limits row i
    to some token ids.
    """
    temperatures = [s.temperature for s in settings]
    scale_B = torch.tensor([t or 1.0 for t in temperatures], device=logits_BV.device)
    scaled_BV = logits_BV.float() / scale_B[:, None]
    choice_BV = masked(scaled_BV, allowed) if any(ids is not None for ids in allowed) else scaled_BV
    p_BV = choice_BV.softmax(-1)
    if any(s.top_p < 1 or s.top_k for s in settings):
        p_BV = nucleus(p_BV, settings)
    uniforms_B1 = torch.from_numpy(uniforms_B).to(p_BV.device)[:, None]
    tokens_B = inverse_cdf(p_BV, uniforms_B1)
    if not all(temperatures):
        greedy_B = torch.tensor([t == 0 for t in temperatures], device=p_BV.device)
        tokens_B = torch.where(greedy_B, choice_BV.argmax(-1), tokens_B)
    logprobs_B = scaled_BV.log_softmax(-1).gather(1, tokens_B[:, None])[:, 0]
    return tokens_B, logprobs_B


def inverse_cdf(p_BV: Tensor, uniforms_B1: Tensor) -> Tensor:
    """The token in whose stretch of the cumulative sum each uniform falls; never one of probability 0."""
    cdf_BV = p_BV.double().cumsum(-1)  # in double, u < 1 stays strictly under the total
    return torch.searchsorted(cdf_BV, uniforms_B1 * cdf_BV[:, -1:], right=True)[:, 0].clamp_(max=p_BV.shape[1] - 1)


def masked(scaled_BV: Tensor, allowed: Sequence[Sequence[int] | None]) -> Tensor:
    """Logits with everything but the allowed tokens at -inf."""
    choice_BV = scaled_BV.clone()
    for row, ids in enumerate(allowed):
        if ids is not None:
            keep = torch.tensor(list(ids), device=scaled_BV.device)
            choice_BV[row] = -torch.inf
            choice_BV[row, keep] = scaled_BV[row, keep]
    return choice_BV


def nucleus(p_BV: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Probabilities outside top-k and top-p set to 0: kept are the likeliest whose predecessors sum to less than top-p.

    Tokens exactly as likely as the last one kept are kept too.
    """
    V = p_BV.shape[1]
    top_p_B1 = p_BV.new_tensor([[s.top_p if s.top_p < 1 else 2.0] for s in settings])
    top_k_B1 = torch.tensor([[s.top_k or V] for s in settings], device=p_BV.device)
    sorted_BV = descending(p_BV)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_B1 = torch.minimum((before_BV < top_p_B1).sum(-1, keepdim=True), top_k_B1).clamp_(1, V)
    return torch.where(p_BV < sorted_BV.gather(1, kept_B1 - 1), 0.0, p_BV)


def descending(x_BV: Tensor) -> Tensor:
    """Rows sorted from large to small; on CPU by NumPy, whose sort is vectorised (17 times as fast as torch's)."""
    if x_BV.device.type == "cpu":
        return torch.from_numpy(np.sort(x_BV.numpy(), axis=-1)).flip(-1)
    return x_BV.sort(-1, descending=True).values


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """A number in [0, 1) for every (seed, position): splitmix64, a counter-based generator (Steele et al. 2014)."""
    start = mix(np.array(seeds, np.uint64))
    counter = np.array(positions, np.uint64) + np.uint64(1)
    return (mix(start + counter * GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
