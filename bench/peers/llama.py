"""llama.cpp through llama-cpp-python, in an environment of its own; many sequences share one batch, as its server does.

options: file (the .gguf). Random draws are made by llama.cpp's own samplers, one chain a sequence.
"""

from __future__ import annotations

from typing import Any

from bench.peers.work import PROMPT_TOKENS, Material, Work, short
from bench.peers.worker import Turns


def play(turns: Turns, work: Work, material: Material, threads: int, options: dict[str, str]) -> None:
    """Sampling only."""
    import llama_cpp as llama  # pyright: ignore[reportMissingImports]

    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(options["file"].encode(), llama.llama_model_default_params())
    settings = llama.llama_context_default_params()
    settings.n_seq_max = work.sequences
    settings.n_ctx = work.sequences * (PROMPT_TOKENS + work.new_tokens + 8)
    settings.n_batch = settings.n_ubatch = max(512, work.prompts * PROMPT_TOKENS)
    settings.n_threads = settings.n_threads_batch = threads
    settings.kv_unified = work.samples > 1  # a group's prompt lies there once
    context = llama.llama_init_from_model(model, settings)
    batch = llama.llama_batch_init(settings.n_batch, 0, work.sequences)

    def sample(work: Work, number: int) -> int:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        chains = [llama.llama_sampler_init_dist(number * work.sequences + i + 1) for i in range(work.sequences)]
        rows = read_prompts(llama, context, batch, work, material.prompts(work, number))
        produced = 0
        for step in range(work.new_tokens):
            tokens = [llama.llama_sampler_sample(chain, context, row) for chain, row in zip(chains, rows, strict=True)]
            produced += len(tokens)
            if step + 1 < work.new_tokens:
                rows = list(range(len(tokens)))
                fill(batch, [(t, PROMPT_TOKENS + step, [i], True) for i, t in enumerate(tokens)])
                decode(llama, context, batch)
        for chain in chains:
            llama.llama_sampler_free(chain)
        return produced

    sample(short(work), -1)
    turns.timed(lambda number: {"tokens": sample(work, number)})


def read_prompts(llama: Any, context: Any, batch: Any, work: Work, prompts: list[list[int]]) -> list[int]:
    """Every prompt once, for all of its samples; the row of the batch with each sample's first logits."""
    rows, entries = [], []
    for place, prompt in enumerate(prompts):
        whose = list(range(place * work.samples, (place + 1) * work.samples))
        entries += [(token, at, whose, at == len(prompt) - 1) for at, token in enumerate(prompt)]
        rows += [len(entries) - 1] * work.samples
    fill(batch, entries)
    decode(llama, context, batch)
    return rows


def fill(batch: Any, entries: list[tuple[int, int, list[int], bool]]) -> None:
    """(token, position, sequences, whether its logits are wanted) into llama.cpp's batch."""
    batch.n_tokens = len(entries)
    for row, (token, position, sequences, wanted) in enumerate(entries):
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, wanted
        batch.n_seq_id[row] = len(sequences)
        for place, sequence in enumerate(sequences):
            batch.seq_id[row][place] = sequence


def decode(llama: Any, context: Any, batch: Any) -> None:
    """Compute a batch."""
    if code := llama.llama_decode(context, batch):
        raise RuntimeError(f"llama_decode gave {code}")
