"""From logits to tokens: one uniform number per token, decided by the sample's seed and position alone.

Shapes: B rows, V vocabulary, N blocks of K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thinkery.core import Sampling

GOLDEN = np.uint64(0x9E3779B97F4A7C15)

BLOCK = 128
"""Tokens whose probabilities are first added up, so that only one such block per row is looked at one by one."""

IN_CACHE = 2**19
"""Logits that a CPU turns into tokens at once, so that what it computes of them stays in its caches."""

LIKELIEST = 1024
"""Tokens that are sorted for top-p before all are; mass outside them is rare in a trained model."""


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
    size = max(1, IN_CACHE // logits_BV.shape[1]) if logits_BV.device.type == "cpu" else len(settings)
    parts = [slice(start, start + size) for start in range(0, len(settings), size)]
    drawn = [draw_together(logits_BV[p], settings[p], uniforms_B[p], allowed[p]) for p in parts]
    tokens, logprobs = zip(*drawn, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def draw_together(
    logits_BV: Tensor,
    settings: Sequence[Sampling],
    uniforms_B: np.ndarray,
    allowed: Sequence[Sequence[int] | None],
) -> tuple[Tensor, Tensor]:
    """The same for some of the rows."""
    scaled_BV = tempered(logits_BV.float(), settings)
    if all(ids is None for ids in allowed):
        p_BV = scaled_BV.softmax(-1)
        tokens_B = choose(scaled_BV, p_BV, settings, uniforms_B)
        return tokens_B, p_BV.gather(1, tokens_B[:, None])[:, 0].log()
    choice_BV = masked(scaled_BV, allowed)
    tokens_B = choose(choice_BV, choice_BV.softmax(-1), settings, uniforms_B)
    return tokens_B, scaled_BV.log_softmax(-1).gather(1, tokens_B[:, None])[:, 0]


def tempered(logits_BV: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """Logits over temperature, as they are where it is 0."""
    temperatures = [s.temperature or 1.0 for s in settings]
    if all(t == 1 for t in temperatures):
        return logits_BV
    return logits_BV / torch.tensor(temperatures, device=logits_BV.device)[:, None]


def choose(choice_BV: Tensor, p_BV: Tensor, settings: Sequence[Sampling], uniforms_B: np.ndarray) -> Tensor:
    """The token of every row: drawn from p after top-k and top-p, or the one with the largest logit."""
    greedy = [s.temperature == 0 for s in settings]
    if all(greedy):
        return choice_BV.argmax(-1)
    if any(s.top_p < 1 or s.top_k for s in settings):
        p_BV = nucleus(p_BV, settings)
    tokens_B = inverse_cdf(p_BV, torch.from_numpy(uniforms_B).to(p_BV.device)[:, None])
    if any(greedy):
        tokens_B = torch.where(torch.tensor(greedy, device=p_BV.device), choice_BV.argmax(-1), tokens_B)
    return tokens_B


def inverse_cdf(p_BV: Tensor, uniforms_B1: Tensor) -> Tensor:
    """The token in whose stretch of the cumulative sum each uniform falls; never one of probability 0.

    Looks for the block of tokens first and then inside it: the sum over the whole vocabulary is taken in float32
    by blocks, what decides between blocks and inside one in float64.
    """
    missing = -p_BV.shape[1] % BLOCK
    blocks_BNK = (F.pad(p_BV, (0, missing)) if missing else p_BV).unflatten(1, (-1, BLOCK))
    cdf_BN = blocks_BNK.sum(-1).double().cumsum(-1)
    wanted_B1 = uniforms_B1 * cdf_BN[:, -1:]  # in double, u < 1 stays strictly under the total
    n_B1 = torch.searchsorted(cdf_BN, wanted_B1, right=True).clamp_(max=cdf_BN.shape[1] - 1)
    before_B1 = F.pad(cdf_BN, (1, 0)).gather(1, n_B1)
    share_B1 = (wanted_B1 - before_B1) / (cdf_BN.gather(1, n_B1) - before_B1)
    inside_BK = blocks_BNK.gather(1, n_B1[:, :, None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    wanted_B1 = share_B1.clamp_(max=1 - 2**-53) * inside_BK[:, -1:]
    k_B1 = torch.searchsorted(inside_BK, wanted_B1, right=True)
    return (n_B1 * BLOCK + k_B1)[:, 0].clamp_(max=p_BV.shape[1] - 1)  # only NaN is ever beyond


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

    With both, top-p is a share of what top-k left, as in transformers and vLLM. Tokens exactly as likely as the last
    one kept are kept too.
    """
    V = p_BV.shape[1]
    top_p_B1 = p_BV.new_tensor([[s.top_p if s.top_p < 1 else 2.0] for s in settings])
    top_k_B1 = torch.tensor([[s.top_k or V] for s in settings], device=p_BV.device)
    sorted_BK = likeliest(p_BV, LIKELIEST)
    both_B1 = (top_k_B1 < V) & (top_p_B1 < 1)
    if (((sorted_BK.sum(-1, keepdim=True) < top_p_B1) | both_B1) & (top_k_B1 > LIKELIEST)).any():
        sorted_BK = likeliest(p_BV, V)
    sums_BK = sorted_BK.cumsum(-1)
    left_B1 = sums_BK.gather(1, top_k_B1.clamp(max=sorted_BK.shape[1]) - 1)
    reach_B1 = torch.where(both_B1, top_p_B1 * left_B1, top_p_B1)
    kept_B1 = torch.minimum((sums_BK - sorted_BK < reach_B1).sum(-1, keepdim=True), top_k_B1).clamp_(1, V)
    return torch.where(p_BV < sorted_BK.gather(1, kept_B1 - 1), 0.0, p_BV)


def likeliest(p_BV: Tensor, count: int) -> Tensor:
    """The `count` largest of every row, from large to small; on CPU by NumPy, several times as fast as torch there."""
    V = p_BV.shape[1]
    if p_BV.device.type != "cpu":
        return p_BV.topk(min(count, V)).values
    largest = np.partition(p_BV.numpy(), V - count)[:, V - count :] if count < V else p_BV.numpy()
    return torch.from_numpy(np.sort(largest)).flip(-1)


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
