"""What this machine can do at most: matrix products in bfloat16, and reading memory.

python -m bench.peers.roofline THREADS DEVICE
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

SIDE = 4096
READ_BYTES = 2**30


def main() -> None:
    """One line of JSON."""
    torch.set_num_threads(int(sys.argv[1]))
    device = torch.device(sys.argv[2])
    left, right = (torch.randn(SIDE, SIDE).to(device, torch.bfloat16) for _ in range(2))
    memory = torch.ones(READ_BYTES // 4, device=device)
    gemm = 2 * SIDE**3 / fastest(lambda: left @ right, device)
    print(json.dumps({"bf16_gflops": gemm / 1e9, "read_gb_s": READ_BYTES / fastest(memory.sum, device) / 1e9}))


def fastest(work: Callable[[], object], device: torch.device, times: int = 8) -> float:
    """Seconds of the best of several runs."""
    work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


if __name__ == "__main__":
    main()
