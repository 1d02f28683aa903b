"""Sequences in parts, one on each rank, for contexts whose activations no single one can hold (DeepSpeed-Ulysses,
2309.14509): `policy.sequences = "split"`.

    everything but attention   a rank has T / N of a micro-batch's tokens, with all heads
    attention                  a rank has all T tokens, with H / N of the heads

Before and after each attention the ranks exchange tokens for heads (all-to-all), so that attention itself is the one of
`model/attention.py` and `model/shared.py`. A rank applies the head to its own tokens; the log-probabilities are then
told to all, and every rank computes the same loss, of which its gradient is the part that its tokens have. The weights
are in parts as well (`shards.py`), whose sums over ranks make the gradient whole.

Ran over gloo on CPUs; over NCCL it has run in no test. Sampling is not split.

Shapes: T tokens of a micro-batch, S of them on each rank, N ranks, C learnt tokens, H heads, E head width, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from thinkery.errors import ConfigError
from thinkery.model.attention import Attend
from thinkery.model.transformer import Shape, Transformer
from thinkery.pipeline.ranks import Ranks
from thinkery.train.batch import Batch
from thinkery.train.optim import B
from thinkery.train.policy import head, in_chunks
from thinkery.train.shards import ShardedPolicy
from thinkery.train.share import Share


class SplitPolicy(ShardedPolicy):
    """A language model of which each rank holds a part, of its weights and of every sequence.

    All ranks work on every micro-batch, which may therefore be as many times as long as there are ranks.
    """

    def __init__(self, network: Transformer, *more: Any, ranks: Ranks, **settings: Any) -> None:
        require_dealable(network.shape, ranks.count)
        super().__init__(network, *more, ranks=ranks, **settings)

    def frozen(self, folder: Path) -> Transformer:
        """The network of a folder in parts too; ConfigError unless its heads can be dealt."""
        network = super().frozen(folder)
        require_dealable(network.shape, self.ranks.count)
        return network

    def share(self, pack: Callable[[int], Sequence[B]]) -> Share[B]:
        """All micro-batches, of which every rank has a part."""
        return Share(pack(self.micro_batch_tokens * self.ranks.count))

    def summed(self, loss: float, sums: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """As they are: every rank has computed the whole."""
        return loss, dict(sums)

    def tokens_since(self) -> float:
        """Tokens that have passed since this was last asked, on all ranks together."""
        passed, self.tokens_passed = self.tokens_passed, 0
        return float(passed)

    def logprobs_of(self, network: Any, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
        """(logprobs_C, entropies_C) of all learnt tokens on every rank; gradients flow to this rank's tokens."""
        N, rank, T = self.ranks.count, self.ranks.rank, len(batch.tokens_T)
        S = -(-T // N)
        tokens_S, positions_S = (part_of(each, S, rank, N) for each in (batch.tokens_T, batch.positions()))
        first = rank * S
        with torch.autocast(tokens_S.device.type, torch.bfloat16, enabled=self.cfg.dtype == "bfloat16"):
            hidden_SD = network(tokens_S, positions_S, by_heads(batch.attend(), T, S))
            own = torch.nonzero((batch.predictors_C >= first) & (batch.predictors_C < first + S))[:, 0]
            hidden = hidden_SD.index_select(0, batch.predictors_C[own] - first)
            size = max(1, self.cfg.logits_on(self.device) // network.shape.vocab_size)
            found = in_chunks(partial(head, network, temperature), hidden, batch.labels_C[own], size)
        logprobs_C, entropies_C = (
            each.new_zeros(len(batch.labels_C)).index_copy(0, own, each) for each in found
        )  # fmt: skip
        return Told.apply(logprobs_C), Told.apply(entropies_C.detach())


def require_dealable(shape: Shape, ranks: int) -> None:
    """Raise ConfigError unless every rank can have as many heads as any other."""
    if shape.num_key_value_heads % ranks or shape.num_attention_heads % ranks:
        found = f"{shape.num_attention_heads} heads, {shape.num_key_value_heads} of keys, {ranks} ranks"
        hint = 'as many ranks as divide both, or policy.sequences = "whole"'
        raise ConfigError("the heads cannot be dealt to the ranks", where="policy.sequences", found=found, hint=hint)


def part_of(numbers_T: Tensor, S: int, rank: int, ranks: int) -> Tensor:
    """This rank's S numbers, zeros behind the end."""
    return F.pad(numbers_T, (0, S * ranks - len(numbers_T)))[rank * S : (rank + 1) * S]


def by_heads(attend: Attend, T: int, S: int) -> Attend:
    """Attention of T tokens where each rank has S of them: all tokens with some of the heads, and back."""

    def attend_by_heads(layer: int, q_SHE: Tensor, k_SKE: Tensor, v_SKE: Tensor) -> Tensor:
        q_THE, k_TKE, v_TKE = (HeadsForTokens.apply(each)[:T] for each in (q_SHE, k_SKE, v_SKE))
        out_THE = attend(layer, q_THE, k_TKE, v_TKE)
        padding = (0, 0, 0, 0, 0, S * dist.get_world_size() - T)
        return TokensForHeads.apply(F.pad(out_THE, padding))

    return attend_by_heads


def heads_for_tokens(x_SHE: Tensor) -> Tensor:
    """All ranks' tokens with this rank's share of the heads, for this rank's tokens with all heads."""
    N, (S, H, E) = dist.get_world_size(), x_SHE.shape
    sent = x_SHE.view(S, N, H // N, E).transpose(0, 1).contiguous()
    got = torch.empty_like(sent)
    dist.all_to_all_single(got, sent)
    return got.view(N * S, H // N, E)


def tokens_for_heads(x_THE: Tensor) -> Tensor:
    """The way back."""
    N, (T, H, E) = dist.get_world_size(), x_THE.shape
    sent = x_THE.contiguous().view(N, T // N, H, E)
    got = torch.empty_like(sent)
    dist.all_to_all_single(got, sent)
    return got.transpose(0, 1).reshape(T // N, N * H, E)


class HeadsForTokens(Function):
    """`heads_for_tokens`, whose gradient goes the way back."""

    @staticmethod
    def forward(ctx: Any, x_SHE: Tensor) -> Tensor:
        return heads_for_tokens(x_SHE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return tokens_for_heads(gradients[0])


class TokensForHeads(Function):
    """`tokens_for_heads`, whose gradient goes the way back."""

    @staticmethod
    def forward(ctx: Any, x_THE: Tensor) -> Tensor:
        return tokens_for_heads(x_THE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return heads_for_tokens(gradients[0])


class Told(Function):
    """The sum over the ranks. Each computes the same loss from it, so the gradient of its own part is what comes."""

    @staticmethod
    def forward(ctx: Any, x_C: Tensor) -> Tensor:
        told_C = x_C.clone()
        dist.all_reduce(told_C)
        return told_C

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
