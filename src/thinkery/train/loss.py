"""The arithmetic of GRPO (R1 v2, eq. 1-3; DeepSeekMath 2402.03300 eq. 3), as plain functions on tensors.

The R1 text writes one ratio for a response; DeepSeekMath and V3.2 spell it for each token, and that is the
default here: a ratio for each token, the mean over a response's tokens, then the mean over responses.

Shapes: C learnt tokens of several responses, laid end to end; S responses; G rewards of one group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Advantage = Literal["group_std", "group_mean", "rloo"]
Ratio = Literal["token", "sequence", "clipped_weight"]
Average = Literal["response", "token", "constant"]


@dataclass(frozen=True, slots=True)
class Totals:
    """The size of a whole update, over all its micro-batches; averages divide by these."""

    responses: int
    tokens: int
    """Learnt tokens."""
    max_tokens: int
    """The longest completion that sampling allowed (Dr.GRPO's constant)."""


def advantages(rewards_G: Tensor, mode: Advantage = "group_std") -> Tensor:
    """How much better each attempt was than its group; all zero when the rewards are equal.

    "group_std" is the paper's (r - mean) / std. The paper writes std({r_1 … r_G}) without saying which; we take
    the population's (divide by G), because the formula names the spread of these G numbers and not an estimate
    for others: one right in two then gives exactly +1 and -1. "group_mean" leaves the division out (Dr.GRPO
    2503.20783); "rloo" compares with the mean of the other attempts (2402.14740).
    """
    rewards_G = rewards_G.double()
    if rewards_G.numel() < 2 or rewards_G.max() == rewards_G.min():
        return torch.zeros_like(rewards_G)
    centred_G = rewards_G - rewards_G.mean()
    if mode == "group_mean":
        return centred_G
    if mode == "rloo":
        return centred_G * rewards_G.numel() / (rewards_G.numel() - 1)
    return centred_G / rewards_G.std(correction=0)


def grpo_loss(
    logprobs_C: Tensor,
    old_C: Tensor,
    reference_C: Tensor | None,
    advantages_C: Tensor,
    lengths: Sequence[int],
    totals: Totals,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    beta: float = 0.001,
    ratio: Ratio = "token",
    average: Average = "response",
    unbiased_kl: bool = False,
    off_policy_bound: float | None = None,
    weights_C: Tensor | None = None,
    sampler_C: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's part of an update's loss, and sums over its tokens for the metrics.

    `lengths` cuts C into responses. The ratio is taken against `old_C`; it may be of a token, of a sequence
    (GSPO 2507.18071: the geometric mean of its tokens' ratios) or a clipped weight without gradient on the
    log-probability (CISPO 2506.13585). The ratio is clipped to [1 - clip_low, 1 + clip_high]; clips above 1 are
    fine and leave the lower side open. The KL term needs `reference_C` and is left out at beta 0; with
    `unbiased_kl` it is weighted with the ratio (V3.2, 2512.02556). A response with negative advantage whose
    mean log(sampler / now) exceeds `off_policy_bound` earns nothing (same place; `sampler_C` are the log-probabilities
    it was sampled with, `old_C` where they are not given). `weights_C` multiplies the policy term, to correct for a
    sampler that differs from the trainer.
    Sums: `tokens`, `clip_low`, `clip_high`, `dropped` (tokens of responses beyond the bound), and `kl` where there is a
    reference.
    """
    drift_C = logprobs_C - old_C
    ratio_C = torch.exp(response_means(drift_C, lengths) if ratio == "sequence" else drift_C)
    low_C, high_C = ratio_C < 1 - clip_low, ratio_C > 1 + clip_high
    clipped_C = ratio_C.clamp(1 - clip_low, 1 + clip_high)
    if ratio == "clipped_weight":
        gain_C = clipped_C.detach() * advantages_C * logprobs_C
    else:
        gain_C = torch.minimum(ratio_C * advantages_C, clipped_C * advantages_C)  # eq. 1
    if weights_C is not None:
        gain_C = gain_C * weights_C
    dropped_C = torch.zeros_like(low_C)
    if off_policy_bound is not None:
        behind_C = (old_C if sampler_C is None else sampler_C) - logprobs_C.detach()
        dropped_C = (advantages_C < 0) & (response_means(behind_C, lengths) > off_policy_bound)
        gain_C = gain_C.masked_fill(dropped_C, 0.0)
    loss_C = -gain_C
    sums = {"tokens": torch.tensor(len(loss_C))}
    if reference_C is not None:
        kl_C = k3(logprobs_C, reference_C)
        sums["kl"] = kl_C.detach().sum()
        if beta:
            loss_C = loss_C + beta * (kl_C * torch.exp(drift_C) if unbiased_kl else kl_C)
    sums |= {
        "clip_low": (low_C & (advantages_C < 0)).sum(),
        "clip_high": (high_C & (advantages_C > 0)).sum(),
        "dropped": dropped_C.sum(),
    }
    return (loss_C * token_weights(lengths, totals, average, loss_C)).sum(), sums


def k3(logprobs_C: Tensor, reference_C: Tensor) -> Tensor:
    """An estimate of KL(now ‖ reference) from samples of now: unbiased and never negative (R1 v2 eq. 2)."""
    difference_C = reference_C - logprobs_C
    return torch.exp(difference_C) - difference_C - 1


def response_means(values_C: Tensor, lengths: Sequence[int]) -> Tensor:
    """Every token's value replaced with the mean over its response."""
    counts_S = torch.tensor(lengths, device=values_C.device)
    response_C = torch.repeat_interleave(counts_S)
    sums_S = values_C.new_zeros(len(lengths)).index_add(0, response_C, values_C)
    return (sums_S / counts_S)[response_C]


def token_weights(lengths: Sequence[int], totals: Totals, average: Average, like: Tensor) -> Tensor:
    """What each token counts in the update's loss, so that micro-batches add up to the whole average."""
    if average == "token":
        return torch.full_like(like, 1 / totals.tokens)
    if average == "constant":
        return torch.full_like(like, 1 / (totals.responses * totals.max_tokens))
    counts_S = torch.tensor(lengths, device=like.device)
    return torch.repeat_interleave(1 / (counts_S * totals.responses).to(like.dtype), counts_S)


def truncated_weights(trainer_C: Tensor, sampler_C: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(trainer / sampler, cap) for tokens that another engine sampled."""
    return torch.exp(trainer_C - sampler_C).clamp(max=cap).detach()


def per_token(sums: Mapping[str, float]) -> dict[str, float]:
    """The sums of `grpo_loss`, divided by their tokens."""
    return {name: value / sums["tokens"] for name, value in sums.items() if name != "tokens"}
