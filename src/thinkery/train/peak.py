"""How fast this machine is: what a model's FLOPs utilisation (`perf/mfu`) is a share of, and how that is timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache

import torch

SIDES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices, by kind of device."""


@cache
def matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of the fastest of a few products of two square matrices; measured once in a process."""
    side = SIDES.get(device.type, 2048)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2.0 * side**3 / fastest(multiply)


def fastest(work: Callable[[], object], budget_s: float = 0.1) -> float:
    """The shortest of as many tries as fit into the budget, at least three."""
    best, tries, end = math.inf, 0, time.perf_counter() + budget_s
    while tries < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        best, tries = min(best, time.perf_counter() - started), tries + 1
    return best
