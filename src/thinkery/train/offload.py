"""Weights that learn with most of what learning holds in the host's memory: `policy.offload = "cpu"`.

    accelerator   weights, gradient of this update             8 bytes a parameter instead of 16
    host          a copy of the weights, AdamW's two moments   12 bytes a parameter, and the gradient for the step

Forward and backward passes run where they did. The gradient is copied to the host, AdamW steps there, and the weights
are copied back: the same arithmetic on the same numbers. Of several ranks with `sharding = "fsdp"` each reads its part
into the host's memory and keeps it there, weights included (FSDP2's CPUOffloadPolicy, `shards.py`). Nothing of it was
run on CUDA; where the accelerator is the CPU it costs memory and saves none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thinkery.model.tokenizer import Tokenizer
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.train.batch import Batch
from thinkery.train.optim import PolicyConfig, adamw
from thinkery.train.policy import Policy


class Host(nn.Module):
    """Copies of a network's parameters in the host's memory, by the same names and in the same order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.copies = nn.ParameterList(
            nn.Parameter(p.detach().to("cpu", copy=True), requires_grad=p.requires_grad) for p in network.parameters()
        )


class OffloadedPolicy(Policy):
    """A language model whose optimizer and the weights it moves are in the host's memory."""

    def __init__(self, network: Any, tokenizer: Tokenizer, cfg: PolicyConfig, *, ranks: Ranks = ALONE) -> None:
        super().__init__(network, tokenizer, cfg, ranks=ranks)
        self.host = Host(network)
        self.optimizer = adamw(self.host, cfg)

    def backward(
        self, batches: Sequence[Batch], objective: Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]
    ) -> tuple[float, dict[str, float]]:
        """Accumulate the gradient of all micro-batches; the optimizer, which clears its own, does not know this one."""
        self.network.zero_grad(set_to_none=True)
        return super().backward(batches, objective)

    def apply(self, lr: float) -> None:
        """Move the host's weights along the gradient, and bring them back."""
        pairs = list(zip(self.host.copies, self.network.parameters(), strict=True))
        for copy, own in pairs:
            copy.grad = None if own.grad is None else own.grad.to("cpu")
            own.grad = None
        super().apply(lr)
        with torch.no_grad():
            for copy, own in pairs:
                own.copy_(copy)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over weights, optimizer, counters and reference."""
        super().restore(state)
        with torch.no_grad():
            for copy, own in zip(self.host.copies, self.network.parameters(), strict=True):
                copy.copy_(own)
