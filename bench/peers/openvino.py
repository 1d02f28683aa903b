"""OpenVINO GenAI in an environment of its own: its pipeline with continuous batching, on a .gguf file.

options: file (the .gguf), precision (of its arithmetic: bf16, f16 or f32).
"""

from __future__ import annotations

from bench.peers.work import Material, Work, short
from bench.peers.worker import Turns


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
    )

    def sample(work: Work, number: int) -> int:
        how = genai.GenerationConfig(max_new_tokens=work.new_tokens, ignore_eos=True, do_sample=True, temperature=1.0)
        how.num_return_sequences = work.samples
        prompts = np.array(material.prompts(work, number), dtype=np.int64)
        asked = genai.TokenizedInputs(openvino.Tensor(prompts), openvino.Tensor(np.ones_like(prompts)))
        return sum(len(tokens) for tokens in pipeline.generate(asked, how).tokens)

    sample(short(work), -1)
    turns.timed(lambda number: {"tokens": sample(work, number)})
