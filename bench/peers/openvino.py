"""OpenVINO GenAI in an environment of its own: its pipeline with continuous batching, on a .gguf file.

options: file (the .gguf), precision (of its arithmetic: bf16, f16 or f32), keys (of keys and values: the same, or u8).
"""

from __future__ import annotations

from bench.peers.work import Material, Work, short
from bench.peers.worker import Turns, told


def play(turns: Turns, work: Work, material: Material, threads: int, options: dict[str, str]) -> None:
    """Sampling only."""
    import numpy as np
    import openvino
    import openvino_genai as genai  # pyright: ignore[reportMissingImports]

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 1  # GB
    scheduler.max_num_seqs = 64
    scheduler.enable_prefix_caching = False
    pipeline = genai.LLMPipeline(
        options["file"],
        "CPU",
        scheduler_config=scheduler,
        INFERENCE_NUM_THREADS=threads,
        INFERENCE_PRECISION_HINT=options["precision"],
        KV_CACHE_PRECISION=options["keys"],
    )

    def sample(work: Work, number: int) -> list[list[int]]:
        how = genai.GenerationConfig(max_new_tokens=work.new_tokens, ignore_eos=True)
        prompts = material.prompts(work, number)
        if work.kind == "greedy":  # a prompt has one likeliest answer here
            prompts = [prompt for prompt in prompts for _ in range(work.samples)]
        else:
            how.do_sample, how.temperature, how.num_return_sequences = True, 1.0, work.samples
        asked = np.array(prompts, dtype=np.int64)
        found = pipeline.generate(
            genai.TokenizedInputs(openvino.Tensor(asked), openvino.Tensor(np.ones_like(asked))), how
        )
        return found.tokens

    sample(short(work), -1)
    turns.timed(lambda number: told(work, sample(work, number)))
