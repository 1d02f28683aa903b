"""transformers' `generate`, in bfloat16, with the cache that is asked for."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from bench.peers.work import Material, Work, short
from bench.peers.worker import Turns


def play(turns: Turns, work: Work, material: Material, threads: int, options: dict[str, str]) -> None:
    """Sampling only. A prompt is repeated once for each of its samples, as `num_return_sequences` does."""
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(material.folder, dtype=torch.bfloat16)
    model = model.eval().to(options["device"])

    def sample(work: Work, number: int) -> int:
        prompts = torch.tensor(material.prompts(work, number), device=model.device)
        found = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            num_return_sequences=work.samples,
            min_new_tokens=work.new_tokens,
            max_new_tokens=work.new_tokens,
            cache_implementation=options.get("cache", "dynamic"),
            pad_token_id=model.config.eos_token_id,
        )
        return len(found[:, prompts.shape[1] :].flatten().tolist())

    sample(short(work), -1)
    turns.timed(lambda number: {"tokens": sample(work, number)})
