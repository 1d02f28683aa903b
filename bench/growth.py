"""How sampling grows with the number of sequences, the length of the prompt and the size of the model, and what a long
prompt does to others:

    python -m bench.growth                          everything, about a quarter of an hour
    python -m bench.growth sequences                a part: sequences, lengths, sizes, others
    python -m bench.growth lengths 16384 32704      some lengths; those that were measured before stay

Writes bench/results/growth.json and docs/images/growth.svg. A model of SmolLM2-135M's shape with random weights and
32,768 positions, and for `sizes` of other models' shapes, in bfloat16; random prompts, one run of each after a warm-up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import torch

from bench.peers.__main__ import located
from bench.peers.worker import peak_bytes
from bench.recipe import machine
from thinkery.core import Sampling
from thinkery.engine import EngineConfig, NativeEngine, Request, open_engine
from thinkery.model.hf import load_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer

matplotlib.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "growth.json"
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128)
LENGTHS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32704)
PARTS = (128, 256, 512, 1024, 2048, 8192)
"""Tokens of prompts in one step, `EngineConfig.prefill`."""
SIZES = {
    "SmolLM2-135M": Shape("llama", 49152, 576, 1536, 30, 9, 3, 64),
    "SmolLM2-360M": Shape("llama", 49152, 960, 2560, 32, 15, 5, 64),
    "Qwen2.5-0.5B": Shape("qwen2", 151936, 896, 4864, 24, 14, 2, 64, attention_bias=True),
    "Qwen3-0.6B": Shape("qwen3", 151936, 1024, 3072, 28, 16, 8, 128, qk_norm=True),
    "Qwen2.5-1.5B": Shape("qwen2", 151936, 1536, 8960, 28, 12, 2, 128, attention_bias=True),
}
TOGETHER = (1, 8, 64)
"""Sequences with which every size is measured."""
NEW = 64
POSITIONS = 32768


def main() -> None:
    """Measure, write, draw."""
    what, *some = sys.argv[1:] or ["all"]
    torch.set_num_threads(os.cpu_count() or 1)
    network, tokenizer = random_model()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found |= {"date": date.today().isoformat(), "machine": machine() | {"threads": torch.get_num_threads()}}
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "sequences": lambda: many(network, tokenizer),
        "lengths": lambda: long(network, tokenizer, [int(each) for each in some] or LENGTHS, found.get("lengths", ())),
        "sizes": lambda: [one for name, shape in SIZES.items() for one in sized(name, shape, tokenizer)],
        "others": lambda: [disturbed(network, tokenizer, prefill) for prefill in PARTS],
    }
    for name in parts if what == "all" else [what]:
        found[name] = parts[name]()
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    draw(found)


def many(network: Transformer, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Several sequences at once."""
    with engine_of(network, tokenizer) as engine:
        sampled(engine, 4, 100, 8)
        return [sampled(engine, count, 100, NEW) for count in SEQUENCES]


def long(
    network: Transformer, tokenizer: Tokenizer, lengths: Sequence[int], old: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One sequence after prompts of these lengths, beside what is known of others."""
    known = {one["prompt"]: one for one in old if one["prompt"] in LENGTHS}
    for length in lengths:
        with engine_of(network, tokenizer) as engine:
            sampled(engine, 1, 100, 8)
            forget_peak()
            known[length] = sampled(engine, 1, length, NEW)
    return [known[length] for length in sorted(known)]


def random_model() -> tuple[Transformer, Tokenizer]:
    """SmolLM2's shape and tokenizer; the weights are drawn."""
    network, tokenizer = load_model(located("smollm2"))
    return drawn(replace(network.shape, max_position_embeddings=POSITIONS)), tokenizer


def drawn(shape: Shape) -> Transformer:
    """A network of a shape, with random weights."""
    network = Transformer(shape)
    network.initialise(torch.Generator().manual_seed(0))
    return network.to(torch.bfloat16).requires_grad_(False)


def sized(name: str, shape: Shape, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """A model of some size with each number of sequences; its tokenizer does not matter."""
    network = drawn(shape)
    size = {"model": name, "parameters": sum(p.numel() for p in network.parameters())}
    with engine_of(network, tokenizer) as engine:
        sampled(engine, 4, 100, 8)
        return [size | sampled(engine, count, 100, NEW // 2) for count in TOGETHER]


def engine_of(network: Transformer, tokenizer: Tokenizer, **settings: Any) -> Any:
    """An engine, and nothing in it yet."""
    return open_engine(network, tokenizer, EngineConfig(dtype="bfloat16", **settings))


def request(seed: int, length: int, new: int) -> Request:
    """A prompt of its own; nothing but its length ends the answer."""
    drawn = torch.randint(100, 40_000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Request((seed,), Sampling(max_tokens=new), prompt=tuple(drawn))


def sampled(engine: NativeEngine, count: int, prompt: int, new: int) -> dict[str, Any]:
    """Sequences with prompts of their own: the time until all have their first token, the speed after that, memory."""
    engine.eos_ids = frozenset()
    for i in range(count):
        engine.submit(request(1000 * count + i, prompt, new))
    began, begun = time.perf_counter(), set()
    while len(begun) < count:
        begun |= {event.request for event in engine.step()}
    first = time.perf_counter() - began
    already = sum(len(row.tokens) for row in engine.scheduler.rows)
    began, ended = time.perf_counter(), 0
    while engine.scheduler.rows:
        ended += len(engine.step())
    rest = time.perf_counter() - began
    assert already + ended == count * new
    found = {
        "sequences": count,
        "prompt": prompt,
        "prompt_s": round(first, 3),
        "prompt_tokens_per_s": round(count * prompt / first, 1),
        "tokens_per_s": round(ended / rest, 1),
        "peak_gb": round(peak_bytes() / 1e9, 2),
    }
    print(found, flush=True)
    return found


def disturbed(network: Transformer, tokenizer: Tokenizer, prefill: int) -> dict[str, Any]:
    """Four sequences are under way when a prompt of 4,096 tokens arrives: their steps before and until it has begun."""
    with engine_of(network, tokenizer, prefill=prefill) as engine:
        engine.eos_ids = frozenset()
        for i in range(4):
            engine.submit(request(i, 100, 400))
        engine.step()
        before = [timed(engine)[0] for _ in range(16)]
        long, meanwhile, told = engine.submit(request(9, 4096, 2)), [], set()
        while long not in told:
            seconds, told = timed(engine)
            meanwhile.append(seconds)
    found = {
        "prefill": prefill,
        "step_s": round(median(before), 4),
        "step_meanwhile_s": round(median(meanwhile), 4),
        "longest_step_s": round(max(meanwhile), 4),
        "steps": len(meanwhile),
        "prompt_s": round(sum(meanwhile), 3),
    }
    print(found, flush=True)
    return found


def timed(engine: NativeEngine) -> tuple[float, set[str]]:
    """One step: its seconds, and the requests that it brought news of."""
    began = time.perf_counter()
    told = {event.request for event in engine.step()}
    return time.perf_counter() - began, told


def forget_peak() -> None:
    """From now on `peak_bytes` is the most memory held since (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def draw(found: dict[str, Any]) -> None:
    """Speed against sequences, against the length of the prompt, and against the size of the model."""
    figure, (left, right, last) = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
    together, alone = found["sequences"], found["lengths"]
    left.plot([one["sequences"] for one in together], [one["tokens_per_s"] for one in together], "o-")
    left.set(xscale="log", xlabel="sequences", ylabel="new tokens/s", title="prompts of 100 tokens")
    lengths = [one["prompt"] for one in alone]
    right.plot(lengths, [one["tokens_per_s"] for one in alone], "o-", label="new tokens after the prompt")
    right.plot(lengths, [one["prompt_tokens_per_s"] for one in alone], "s--", label="the prompt's tokens")
    right.set(xscale="log", yscale="log", xlabel="tokens of the prompt", ylabel="tokens/s", title="one sequence")
    right.legend(frameon=False)
    for count in TOGETHER:
        some = [one for one in found.get("sizes", ()) if one["sequences"] == count]
        sizes, speeds = ([one[name] for one in some] for name in ("parameters", "tokens_per_s"))
        last.plot(sizes, speeds, "o-", label=f"{count} sequence{'s' if count > 1 else ''}")
    last.set(xscale="log", yscale="log", xlabel="parameters", ylabel="new tokens/s", title="prompts of 100 tokens")
    last.legend(frameon=False)
    for axes in (left, right, last):
        axes.set_ylim(bottom=0 if axes is left else None)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "images" / "growth.svg")


if __name__ == "__main__":
    main()
