"""Two ranks beside one: how far losses and weights are apart, in every way that training is shared out.

    python -m bench.ranks      →  bench/results/ranks.json, the table of docs/scale.md

The jobs are those of `tests/train/ranked.py`: twenty updates and more of a tiny random model in float32, by one
process and by two that torchrun starts. The last two were stopped on two ranks after 6 updates, continued on one to 14,
and ended on two. Fails where anything is apart by more than BOUND.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tests.train.conftest import tiny_network, tiny_tokenizer

from bench.recipe import machine, write
from thinkery.model.hf import save_model

RANKED = Path(__file__).parents[1] / "tests" / "train" / "ranked.py"
BOUND = 1e-5
WAYS = {
    "SFT, replicated": "sft/replicated",
    "SFT, FSDP2": "sft/fsdp",
    "SFT, FSDP2 off-loaded": "sft/fsdp+cpu",
    "SFT, sequences in parts": "sft/fsdp+split",
    "GRPO, replicated": "grpo/replicated",
    "GRPO, replicated, optimizer off-loaded": "grpo/replicated+cpu",
    "GRPO, FSDP2": "grpo/fsdp",
    "GRPO, FSDP2 off-loaded": "grpo/fsdp+cpu",
    "GRPO, sequences in parts": "grpo/fsdp+split",
    "GRPO, sampled ahead, with questions carried over": "ahead/fsdp",
}
RESUMED = {"SFT, FSDP2, on 2 ranks, 1 and 2": "sft/fsdp", "GRPO, FSDP2, on 2 ranks, 1 and 2": "grpo/fsdp"}
FIRST, SECOND = 6, 14
"""The updates after which those are stopped."""


def main() -> None:
    """Train in every way, compare, and keep what was found."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_model(place / "model", tiny_network(), tiny_tokenizer())
        train(place, 1, *(f"one-{loop}/{loop}/replicated/0" for loop in ("sft", "grpo", "ahead")))
        train(place, 2, *(f"{slug(way)}/{job}/0" for way, job in WAYS.items()))
        for ranks, stop in ((2, FIRST), (1, SECOND), (2, 0)):
            train(place, ranks, *(f"{slug(way)}/{job}/{stop}" for way, job in RESUMED.items()))
        found = {way: apart(place, slug(way), job.partition("/")[0]) for way, job in (WAYS | RESUMED).items()}
    write("ranks", {
        "date": date.today().isoformat(), "machine": machine(), "wall_s": round(time.monotonic() - began, 1),
        "bound": BOUND, "apart": found,
    })  # fmt: skip
    if missed := [way for way, one in found.items() if max(one["losses"], one["weights"]) > BOUND]:
        sys.exit(f"too far apart: {', '.join(missed)}")


def train(place: Path, ranks: int, *jobs: str) -> None:
    """Do jobs, one after the other, on so many ranks."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)) if ranks > 1 else ()
    command = [sys.executable, *torchrun, str(RANKED), str(place / "model"), str(place), *jobs]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def slug(way: str) -> str:
    """A folder's name."""
    return way.lower().replace(", ", "-").replace(" ", "-")


def apart(place: Path, name: str, loop: str) -> dict[str, Any]:
    """The largest differences from what one process made of the same loop, and over how many updates."""
    ours, theirs = torch.load(place / f"{name}.pt"), torch.load(place / f"one-{loop}.pt")
    losses = [abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)]
    pairs = zip(ours["weights"].values(), theirs["weights"].values(), strict=True)
    weights = [float((mine - other).abs().max()) for mine, other in pairs]
    return {"updates": len(losses), "losses": max(losses), "weights": max(weights)}


if __name__ == "__main__":
    main()
