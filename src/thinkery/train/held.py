"""What weights that learn hold in memory, and whether that is there."""

from __future__ import annotations

import math

import torch

from thinkery.errors import EnvironmentLacks
from thinkery.pipeline.files import size_text
from thinkery.pipeline.memory import memory
from thinkery.train.optim import LearnerConfig, PolicyConfig


def require_memory(
    parameters: int, cfg: LearnerConfig, *, where: str, ranks: int = 1, sampled: int = 0, copied: int = 0
) -> None:
    """Raise EnvironmentLacks where not even weights, gradients and moments fit; frozen weights have neither.

    `sampled` and `copied` are those of `held_bytes`. Processes that share a machine's memory are not counted together.
    """
    held = held_bytes(cfg, parts_of(cfg, ranks), sampled=sampled, copied=copied)
    on_gpu, on_host = held if learns_on_gpu() else (0, sum(held))
    places = [(math.ceil(on_host * parameters), memory()[1], "")]
    if on_gpu:
        places.append((math.ceil(on_gpu * parameters), torch.cuda.mem_get_info()[0], "on the GPU "))
    for needed, free, place in places:
        if needed > free:
            others = ""
            if isinstance(cfg, PolicyConfig) and cfg.lora is None:
                others = ', policy.weights = "bfloat16", policy.lora, or more ranks with policy.sharding = "fsdp"'
            raise EnvironmentLacks(
                "too little memory to train this model",
                where=where,
                found=f"{parameters / 1e9:.3g}B parameters need {place}{size_text(needed)}, {size_text(free)} are free",
                hint=f"a smaller model, a larger machine{others}; thinkery plan says what each step needs",
            )


def learns_on_gpu() -> bool:
    """Whether weights learn on a GPU: where there is one."""
    return torch.cuda.is_available()


def parts_of(cfg: LearnerConfig, ranks: int) -> int:
    """In how many parts the weights lie on so many ranks."""
    return ranks if isinstance(cfg, PolicyConfig) and cfg.sharding == "fsdp" and cfg.lora is None else 1


def serves(cfg: LearnerConfig, sampled: int) -> bool:
    """Whether engines on a GPU that sample in so many bytes a number do so from the very weights that learn."""
    return sampled == 4 and not (isinstance(cfg, PolicyConfig) and cfg.weights == "bfloat16")


def copied_bytes(cfg: LearnerConfig, sampled: int) -> int:
    """Bytes a number of the copy of whole weights that an engine in this process samples from in so many bytes a
    number: none on a CPU, where it packs them anyway, nor where the weights that learn serve."""
    return 0 if serves(cfg, sampled) or not learns_on_gpu() else sampled


def held_bytes(cfg: LearnerConfig, parts: int, *, sampled: int = 0, copied: int = 0) -> tuple[float, float]:
    """Bytes a parameter that one process holds to train on the accelerator, and in the host's memory.

    Weights, gradients and moments in `parts`, of which it has one. For engines to sample from, `sampled` are the bytes
    a number of weights that lie in parts and are whole once more, `copied` those of a copy of weights that are whole
    themselves; 0 without. What computing takes, a reference, and what is gathered while a block computes come on top.
    """
    if not isinstance(cfg, PolicyConfig):
        return 16, 0
    if cfg.lora:
        return 4 + copied, 0
    if parts == 1:
        whole = (10 if cfg.weights == "bfloat16" else 16) + copied
        return (whole, 0) if cfg.offload == "none" else (8 + copied, 12)
    part = 16 / parts
    return (part + sampled, 0) if cfg.offload == "none" else (sampled, part)
