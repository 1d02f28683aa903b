"""How fast this machine multiplies matrices: what a model's FLOPs utilisation (`perf/mfu`) is a share of."""

from __future__ import annotations

import time
from functools import cache

import torch

SIDES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices, by kind of device."""
TRIES = 5


@cache
def matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of the fastest of a few products of two square matrices; measured once in a process."""
    side = SIDES.get(device.type, 2048)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * side**3 / min(seconds(left, right) for _ in range(TRIES))


def seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """How long one product takes."""
    wait(left.device)
    began = time.perf_counter()
    torch.mm(left, right)
    wait(left.device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
