"""PPO with a critic (R1 v2 §A.3), to compare GRPO with at equal samples: every token against what was expected of it.

GRPO compares an attempt with the other attempts at its question. PPO compares each token with the value that a second
network expected before it, and takes the KL from the reward instead of adding it to the loss:

    r_t = -β log(π_old / π_ref), and the attempt's reward on its last token
    δ_t = r_t + V_{t+1} - V_t                                       V is 0 after the last token, a cut one too
    A_t = δ_t + λ δ_{t+1} + λ² δ_{t+2} + …                          generalized advantage estimation, 1506.02438
    R_t = A_t + V_t                                                 what the critic learns

There is no discount (γ = 1), and advantages are not normalized: both as the paper writes it. The critic starts as a
copy of the policy with a scalar head and is as large, which is the memory that the paper saves by GRPO.

Shapes: T tokens of a micro-batch, C learnt tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from thinkery.train.batch import Batch, Example, Numbers, per_example
from thinkery.train.optim import Learner, LearnerConfig
from thinkery.train.policy import Policy, mixed
from thinkery.train.share import collected


class CriticConfig(LearnerConfig):
    """Settings of PPO's critic, and how it learns."""

    lr: float = Field(default=1e-5, ge=0)
    """Peak learning rate; a few times the policy's is usual (not published)."""
    gae_lambda: float = 1.0
    """How far an advantage looks ahead, λ: 1 waits for the reward, less trusts the critic more. The paper found the
    usual 0.95 far worse than GRPO and 1.0 nearly as good."""
    value_clip: float = 0.2
    """How far a value may move from what it was at sampling before it stops learning."""


class ValueNetwork(nn.Module):
    """A decoder with a scalar head on every state; the head is zero at first, so nothing is expected."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.head = nn.Linear(network.shape.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, computing: Any = None) -> Tensor:
        """values_C: what is still to be earned, seen before each learnt token; `computing` is the decoder, or what
        computes with its weights."""
        return (
            self.head(batch.hidden(computing or self.network).index_select(0, batch.predictors_C)).squeeze(-1).float()
        )


class Critic(Learner):
    """PPO's baseline: values of every token, learnt beside the policy and saved with it."""

    reads_old = True
    needs_spread = False

    def __init__(self, policy: Policy, cfg: CriticConfig, *, beta: float, temperature: float) -> None:
        network = ValueNetwork(policy.copied().float()).to(policy.device)
        super().__init__(network, cfg, policy.ranks)
        self.computing = mixed(network.network, cfg)
        self.gae_lambda, self.value_clip = cfg.gae_lambda, cfg.value_clip
        self.policy, self.beta, self.temperature = policy, beta, temperature

    def compare(self, groups: Sequence[Sequence[Example]]) -> list[list[Example]]:
        """The same attempts with an advantage, a value and a return for each learnt token."""
        attempts = [attempt for group in groups for attempt in group]
        if self.beta:
            scored = self.policy.logprobs(attempts, self.temperature, reference=True)
            attempts = [replace(e, reference=r) for e, r in zip(attempts, scored, strict=True)]
        judged = (self.judge(e, np.array(v)) for e, v in zip(attempts, self.values(attempts), strict=True))
        return [[next(judged) for _ in group] for group in groups]

    def judge(self, attempt: Example, values_C: np.ndarray) -> Example:
        """One attempt with its advantages and returns, given its values."""
        rewards_C = token_rewards(attempt.reward, attempt.old, attempt.reference, self.beta)
        advantages_C = gae(rewards_C, values_C, self.gae_lambda)
        return replace(attempt, advantage=advantages_C, values=values_C, returns=advantages_C + values_C)

    @torch.no_grad()
    def values(self, attempts: Sequence[Example]) -> list[list[float]]:
        """The value of every learnt token, by attempt."""

        def score() -> list[list[float]]:
            return per_example(len(attempts), self.share(partial(self.policy.pack, attempts)).own, self.forward)

        return collected(self.with_memory(score), self.ranks)

    def forward(self, batch: Batch) -> Tensor:
        """values_C in the arithmetic that is configured."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.dtype == "bfloat16"):
            return self.network(batch, self.computing)

    def learn(self, attempts: Sequence[Example], *, total: int) -> dict[str, float]:
        """One update of `total` towards the returns; its metrics, none where nothing was graded."""
        if not attempts:
            return {}
        tokens = sum(e.learnt for e in attempts)
        update = self.update(partial(self.policy.pack, attempts), self.objective(tokens), total=total)
        return {
            "value/loss": update.loss,
            "value/grad_norm": update.grad_norm,
            "value/clipped": update.sums["clipped"] / tokens,
            "value/explained": explained(attempts),
        }

    def objective(self, tokens: int) -> Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]:
        """This micro-batch's part of the mean over the update's `tokens`."""

        def value_objective(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
            assert batch.values_C is not None
            assert batch.returns_C is not None
            loss_C, clipped_C = value_loss(self.forward(batch), batch.values_C, batch.returns_C, self.value_clip)
            return loss_C.sum() / tokens, {"clipped": clipped_C.sum()}

        return value_objective

    def save(self, folder: Path) -> None:
        """Everything that the next update depends on, in `folder`/critic."""
        (folder / "critic").mkdir(exist_ok=True)
        super().save(folder / "critic")

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        super().load(folder / "critic")


def token_rewards(reward: float, old: Numbers, reference: Numbers, beta: float) -> np.ndarray:
    """What each learnt token earns: its share of the KL, and on the last token the attempt's reward."""
    rewards_C = np.zeros(len(old))
    if beta:
        rewards_C -= beta * (np.asarray(old) - np.asarray(reference))
    rewards_C[-1] += reward
    return rewards_C


def gae(rewards_C: np.ndarray, values_C: np.ndarray, gae_lambda: float) -> np.ndarray:
    """Generalized advantage estimation without discount over one attempt that ends with its last token."""
    deltas_C = rewards_C + np.append(values_C[1:], 0.0) - values_C
    advantages_C = np.zeros_like(deltas_C)
    ahead = 0.0
    for t in reversed(range(len(deltas_C))):
        advantages_C[t] = ahead = deltas_C[t] + gae_lambda * ahead
    return advantages_C


def value_loss(values_C: Tensor, old_C: Tensor, returns_C: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """(loss_C, clipped_C): half the squared error, without gradient where a value has moved further than `clip`
    towards its return."""
    moved_C = values_C - old_C
    error_C, near_error_C = (values_C - returns_C) ** 2, (old_C + moved_C.clamp(-clip, clip) - returns_C) ** 2
    return torch.maximum(error_C, near_error_C) / 2, (moved_C.abs() > clip) & (near_error_C > error_C)


def explained(attempts: Sequence[Example]) -> float:
    """The share of the returns' variance that the values foresaw at sampling; 0 where the returns do not vary."""
    returns = np.concatenate([e.returns for e in attempts])
    errors = returns - np.concatenate([e.values for e in attempts])
    return float(1 - errors.var() / returns.var()) if returns.var() else 0.0
