"""How sampling grows with the number of sequences and with the length of the prompt: `python -m bench.growth`

Writes bench/results/growth.json and docs/images/growth.svg. SmolLM2-135M in bfloat16, random prompts, one run of each
size after a warm-up; about two minutes.
"""

from __future__ import annotations

import json
import os
import time
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
import torch

from bench.peers.__main__ import located
from bench.peers.worker import peak_bytes
from bench.recipe import machine
from thinkery.core import Sampling
from thinkery.engine import EngineConfig, NativeEngine, Request, generate, open_engine
from thinkery.model.hf import load_model

matplotlib.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128)
LENGTHS = (128, 512, 1024, 2048, 4096, 8000)


def main() -> None:
    """Measure, write, draw."""
    torch.set_num_threads(os.cpu_count() or 1)
    network, tokenizer = load_model(located("smollm2"))
    network.requires_grad_(False)
    with open_engine(network, tokenizer, EngineConfig(dtype="bfloat16", kv_memory=8.0)) as engine:
        engine.eos_ids = frozenset()
        sampled(engine, 4, 100, 8, 0)
        found = {
            "date": date.today().isoformat(),
            "machine": machine() | {"threads": torch.get_num_threads()},
            "sequences": [sampled(engine, count, 100, 64, 1000 + count) for count in SEQUENCES],
            "lengths": [sampled(engine, 1, length, 64, 2000 + length) for length in LENGTHS],
        }
    (ROOT / "bench" / "results" / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found)


def sampled(engine: NativeEngine, count: int, prompt: int, new: int, seed: int) -> dict[str, Any]:
    """Sequences with prompts of their own: the time until the first tokens, the speed after them, and memory."""
    shape = (count, prompt)
    prompts = torch.randint(100, 40_000, shape, generator=torch.Generator().manual_seed(seed)).tolist()
    began = time.perf_counter()
    list(generate(engine, [Request((i,), Sampling(max_tokens=1), prompt=tuple(p)) for i, p in enumerate(prompts)]))
    first = time.perf_counter() - began
    began = time.perf_counter()
    list(generate(engine, [Request((i,), Sampling(max_tokens=new), prompt=tuple(p)) for i, p in enumerate(prompts)]))
    rest = time.perf_counter() - began
    found = {
        "sequences": count,
        "prompt": prompt,
        "prompt_tokens_per_s": round(count * prompt / first, 1),
        "tokens_per_s": round(count * new / rest, 1),
        "peak_gb": round(peak_bytes() / 1e9, 2),
    }
    print(found)
    return found


def draw(found: dict[str, Any]) -> None:
    """Speed against sequences, and against the length of the prompt."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(SEQUENCES, [one["tokens_per_s"] for one in found["sequences"]], "o-")
    left.set(xscale="log", xlabel="sequences", ylabel="new tokens/s", title="prompts of 100 tokens")
    right.plot(LENGTHS, [one["tokens_per_s"] for one in found["lengths"]], "o-", label="new tokens, prompt known")
    right.plot(LENGTHS, [one["prompt_tokens_per_s"] for one in found["lengths"]], "s--", label="the prompt's tokens")
    right.set(xscale="log", yscale="log", xlabel="tokens of the prompt", ylabel="tokens/s", title="one sequence")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_ylim(bottom=None if axes is right else 0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "images" / "growth.svg")


if __name__ == "__main__":
    main()
