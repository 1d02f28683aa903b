"""Weights and moments in bfloat16: `policy.weights = "bfloat16"`.

    matrices            2 bytes a parameter instead of 4
    AdamW's moments     4                              8
    gradient            4, float32                     4
    norms and biases    float32, as ever

Neighbouring numbers of bfloat16 lie a 128th to a 256th of their size apart, and R1's learning rate moves a weight of
usual size by a hundredth of that: rounded to the nearest, it would stay where it is. Weights are rounded up or down at
random, with the probabilities that make it right on average (stochastic rounding; Gupta et al. 2015, 1502.02551). What
is drawn follows from the number of the update, so replicas stay equal and a resumed run makes the same weights.
Moments, which are in bfloat16 in DeepSeek-V3's training too (2412.19437 §3.3.3), are rounded to the nearest; that wants
betas by which they move far enough.

By compiled functions (`mixed.py`) gradients are float32 from the first sum on. Where PyTorch computes instead, that of
one micro-batch is made in bfloat16, and micro-batches are added up in float32. Nothing of this was run on CUDA, where
the built-in engine samples from a copy, since norms have another format than matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from thinkery.errors import ConfigError
from thinkery.model.transformer import Transformer

SLICE = 2**20
"""Weights that are float32 at once."""

SHIFT = 2**16
"""Places at which the noise of an update may begin."""

LARGEST_BETA = 0.99
"""From 0.996 on a moment in bfloat16 would not come down again, as a step takes off less than half of a unit."""


def is_narrow(p: Tensor) -> bool:
    """Whether this is a matrix in bfloat16."""
    return p.dtype == torch.bfloat16 and p.dim() >= 2


def narrow(network: Any) -> None:
    """Put a decoder's matrices into bfloat16, to the nearest, in place; their gradients will be float32.

    Raises ConfigError for networks that are not our own decoder, and for a PyTorch that is too old.
    """
    where, hint = "policy.weights", 'policy.weights = "float32"'
    if not isinstance(network, Transformer):
        raise ConfigError("only our own decoder learns with weights in bfloat16", where=where, hint=hint)
    if not hasattr(torch.Tensor, "grad_dtype"):
        problem = "this PyTorch has no gradients in another format than the weights'"
        raise ConfigError(problem, where=where, found=torch.__version__, hint=f"a newer one, or {hint}")
    for p in network.parameters():
        if p.dim() >= 2:
            p.data = p.data.bfloat16()
            p.grad_dtype = torch.float32


def no_gradient(p: Tensor) -> Tensor:
    """A gradient of zero, in the format that this weight's have."""
    return torch.zeros_like(p, dtype=torch.float32)


def no_moments(p: Tensor) -> dict[str, Tensor]:
    """What AdamW knows of a weight before its first step."""
    step = torch.zeros((), dtype=torch.float32, device=p.device)
    return {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


class RoundedAdamW(torch.optim.AdamW):
    """AdamW over weights of which those in bfloat16 have moments in bfloat16 and are rounded at random."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step; each slice of a weight is float32 for as long as it moves."""
        noise = Noise()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if not self.state[p]:
                        self.state[p] = no_moments(p)
                    self.move(p, p.grad, self.state[p], group, noise)

    def move(self, p: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], noise: Noise) -> None:
        """One step of one weight."""
        own = (p.view(-1), state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1))
        settings = {name: group[name] for name in ("lr", "weight_decay", "eps", "maximize", "amsgrad")}
        beta1, beta2 = group["betas"]
        for slope, *held in zip(gradient.reshape(-1).split(SLICE), *(x.split(SLICE) for x in own), strict=True):
            weight, first, second = (x.float() for x in held)  # themselves where they are float32
            steps = [state["step"].clone()]  # which adamw counts up
            adamw([weight], [slope], [first], [second], [], steps, fused=True, beta1=beta1, beta2=beta2, **settings)
            if is_narrow(p):
                held[0].copy_(rounded_at_random(weight, noise.of(len(weight), state["step"])))
                held[1].copy_(first)
                held[2].copy_(second)
        state["step"] += 1


class Noise:
    """Random numbers below 2**16: one draw an update, of which every slice takes a stretch that begins elsewhere."""

    def __init__(self) -> None:
        self.pool: Tensor | None = None
        self.taken = 0

    def of(self, count: int, step: Tensor) -> Tensor:
        """So many, in this step."""
        if self.pool is None:
            generator = torch.Generator().manual_seed(int(step))
            self.pool = torch.randint(SHIFT, (SLICE + SHIFT,), dtype=torch.int32, generator=generator).to(step.device)
        begin = self.taken * 40503 % SHIFT
        self.taken += 1
        return self.pool[begin : begin + count]


def rounded_at_random(x_N: Tensor, noise_N: Tensor) -> Tensor:
    """Numbers of bfloat16 next to x (float32): those further from zero where noise (int32, evenly below 2**16) carries
    over, so that their mean is x."""
    bits_N = x_N.view(torch.int32) + noise_N
    return (bits_N & -(2**16)).view(torch.float32).bfloat16()
