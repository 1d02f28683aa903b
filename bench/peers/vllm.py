"""vLLM's CPU build, in an environment of its own; greedy and random sampling as its documentation shows."""

from __future__ import annotations

import os

from bench.peers.work import Material, Work, short
from bench.peers.worker import Turns


def play(turns: Turns, work: Work, material: Material, threads: int, options: dict[str, str]) -> None:
    """Sampling only."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    import torch
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(threads)
    model = LLM(
        model=material.folder,
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=64,
        kv_cache_memory_bytes=2**30,
        generation_config="vllm",
        enforce_eager=options.get("eager") == "yes",
    )

    def sample(work: Work, number: int) -> int:
        how = SamplingParams(n=work.samples, temperature=1.0, max_tokens=work.new_tokens, ignore_eos=True)
        prompts = [{"prompt_token_ids": tokens} for tokens in material.prompts(work, number)]
        found = model.generate(prompts, how, use_tqdm=False)
        return sum(len(one.token_ids) for each in found for one in each.outputs)

    sample(short(work), -1)
    turns.timed(lambda number: {"tokens": sample(work, number)})
