"""Engines: prompts go in, completions come out. `open_engine` makes the built-in one for a network."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from thinkery.config import Config
from thinkery.engine.base import Engine, Event, Request, generate
from thinkery.engine.native.engine import NativeEngine
from thinkery.engine.native.fixed import FixedRunner
from thinkery.engine.native.graphs import GraphRunner
from thinkery.engine.native.kernels import SPREAD, Compiled, suits, widths
from thinkery.engine.native.packed import OneDnn, PackedTransformer, can_pack
from thinkery.engine.native.runner import CachedRunner, Network, Runner, token_bytes
from thinkery.engine.plain import RecomputingRunner
from thinkery.errors import ConfigError, EnvironmentLacks
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer

__all__ = ["Engine", "EngineConfig", "Event", "MembersConfig", "NativeEngine", "Request", "generate", "open_engine"]

LOG = logging.getLogger("thinkery.engine")


class MembersConfig(Config):
    """Where something is computed: in this process, in others of this machine, or on a Ray cluster."""

    processes: int = Field(default=0, ge=0, json_schema_extra={"key": False})
    """Processes of their own that do it (`engine/pool.py`), each with its copy of the network and for itself as much as
    is set here; 0 does it in this one."""
    ray: str = Field(default="", json_schema_extra={"key": False})
    """A Ray cluster whose actors do it instead (`engine/ray.py`), each with a server of vLLM where the stage has that
    set: `ray://host:port`, `auto` on one of its machines, `local` for one of this machine alone. `processes` is their
    number, 0 as many as there is room for."""
    threads: int = Field(default=1, ge=1, json_schema_extra={"key": False})
    """Threads of each of these processes or actors; a Ray cluster keeps so many processors for an actor."""
    patience_s: float = Field(default=600.0, gt=0, json_schema_extra={"key": False})
    """Seconds that one of them may say nothing, though it has work, before another does it. A step must take less."""
    start_s: float = Field(default=600.0, gt=0, json_schema_extra={"key": False})
    """Seconds that they may take to start, on a cluster also to find room. The others go on without one that takes
    longer; where there are no others, the run stops, to be continued."""


class EngineConfig(MembersConfig):
    """How the built-in engine runs; what it samples is decided by `Sampling` and seeds."""

    max_batch: int = Field(default=384, ge=1, json_schema_extra={"key": False})
    """Samples that are continued at the same time."""
    kv_memory: float = Field(default=4.0, gt=0, json_schema_extra={"key": False})
    """GiB for keys and values; samples that do not fit wait."""
    prefill: int = Field(default=8192, ge=1, json_schema_extra={"key": False})
    """New tokens of prompts in one step; what has more goes through in several, while others get a token in each. Fewer
    let what came first begin sooner, hold up less what is running, and take less memory; many together are faster."""
    max_len: int | None = Field(default=None, ge=2)
    """Longest prompt and completion together, in tokens; None is what the model has positions for."""
    dtype: Literal["model", "float32", "bfloat16", "fastest"] = "model"
    """Number format to sample in; "model" is that of the tensors that learn. bfloat16 is faster where the processor
    multiplies in it, which "fastest" looks up, and its log-probabilities are only nearly the trainer's."""
    quantization: Literal["none", "int8"] = Field(default="none", json_schema_extra={"key": "when set"})
    """Multiply in 8 bits on a CPU, weights and what they are multiplied with: less is read, and processors with AVX-512
    VNNI multiply up to twice as much; others are slower. The model sampled is then only nearly the one that learns
    (docs/performance.md); reinforcement learning corrects for it by `old_logprobs = "trainer"` unless that is set."""
    kernels: Literal["compiled", "torch"] = Field(default="compiled", json_schema_extra={"key": False})
    """What computes between matrix products on a CPU: our own functions, compiled on first use where there is a C++
    compiler, or PyTorch's, which are slower."""
    graphs: Literal["fitting", "off"] = Field(default="fitting", json_schema_extra={"key": False})
    """On a CUDA device, decode by recorded graphs where `kv_memory` has room for `max_batch` rows of `max_len` tokens;
    or never."""
    deterministic: bool = False
    """Make every sample independent of its neighbours to the last bit, in float32 and at a cost: each step
    computes `max_batch` rows over `max_len` positions, so set both as low as the task allows."""


@contextmanager
def open_engine(
    network: Network, tokenizer: Tokenizer, cfg: EngineConfig, *, version: int = 0
) -> Iterator[NativeEngine]:
    """An engine for as long as the block lasts: cached for our Transformer, recomputing for any other network.

    It samples from the tensors given, or from a copy in another format or packed for this processor; call
    `bump(version)` after changing them.
    """
    max_len = longest_text(network, cfg)
    sampled = sampled_network(network, cfg)
    if cfg.deterministic:
        runner = fixed_runner(sampled, cfg, max_len)
    elif isinstance(sampled, Transformer) and records_graphs(*place_of(sampled), cfg, max_len):
        runner = GraphRunner(sampled, cfg.max_batch, max_len, int(cfg.kv_memory * 2**30))
    elif isinstance(sampled, Transformer | PackedTransformer):
        if isinstance(sampled, Transformer) and (wanting := unrecorded(*place_of(sampled), cfg, max_len)):
            warn_once(wanting)
        runner = CachedRunner(sampled, cfg.max_batch, int(cfg.kv_memory * 2**30))
    else:
        runner = RecomputingRunner(sampled, cfg.max_batch)
    engine = NativeEngine(
        network, sampled, runner, tokenizer, max_batch=cfg.max_batch, prefill=cfg.prefill, max_len=max_len,
        version=version,
    )  # fmt: skip
    try:
        yield engine
    finally:
        engine.release()


def records_graphs(device: torch.device, token: int, cfg: EngineConfig, max_len: int) -> bool:
    """Whether decoding steps are recorded: as configured, on a CUDA device, where every row has its room for tokens of
    so many bytes."""
    return device.type == "cuda" and cfg.graphs != "off" and cfg.max_batch * max_len * token <= cfg.kv_memory * 2**30


def unrecorded(device: torch.device, token: int, cfg: EngineConfig, max_len: int) -> str:
    """What a CUDA device lacks to record decoding steps, with the settings to change; "" where it does, or need not."""
    if device.type != "cuda" or cfg.graphs == "off" or records_graphs(device, token, cfg, max_len):
        return ""
    needed = cfg.max_batch * max_len * token / 2**30
    return (
        f"decoding steps are not recorded, and slower for it: {cfg.max_batch} rows of {max_len} tokens need"
        f" {needed:.1f} GiB, engine.kv_memory is {cfg.kv_memory:g}. Raise that, lower engine.max_batch or"
        ' engine.max_len, or set engine.graphs = "off"'
    )


@cache
def warn_once(text: str) -> None:
    """Tell the log, the first time."""
    LOG.warning(text)


def place_of(network: Transformer) -> tuple[torch.device, int]:
    """Where a network is, and how many bytes of keys and values a token has there."""
    weight = network.lm_head.weight
    return weight.device, token_bytes(network.shape, weight.dtype)


def longest_text(network: Network, cfg: EngineConfig) -> int:
    """Tokens of prompt and completion together: as configured, but no more than the model has positions for."""
    limits = [n for n in (cfg.max_len, network.shape.max_position_embeddings) if n]
    if not limits:
        raise ConfigError("the model does not say how long its texts may be", hint="set the engine's max_len")
    return min(limits)


def sampled_network(network: Network, cfg: EngineConfig) -> Any:
    """The network itself, or a copy that is faster or has the format asked for."""
    dtype = sampled_dtype(network, cfg)
    if cfg.quantization == "int8":
        return in_int8(network, dtype, cfg)
    if isinstance(network, Transformer) and can_pack(network, dtype) and not cfg.deterministic:
        compiled = cfg.kernels == "compiled" and suits(network.shape)
        return PackedTransformer(network, (Compiled if compiled else OneDnn)(dtype))
    if all(parameter.dtype == dtype for parameter in network.parameters()):
        return network
    # not .to(), which would also round the rotary frequencies; and no second copy in the format that is left
    converted = {
        id(own): nn.Parameter(own.detach().to(dtype, copy=True), requires_grad=own.requires_grad)
        for own in network.parameters()
    }
    return copy.deepcopy(network, converted)


def in_int8(network: Network, dtype: torch.dtype, cfg: EngineConfig) -> PackedTransformer:
    """The network with products in 8 bits; raises ConfigError where it cannot be sampled so here."""
    if cfg.deterministic:
        raise no_int8("a deterministic engine computes in float32")
    if not isinstance(network, Transformer) or not can_pack(network, dtype):
        where = f"on x86 processors, and here not beside {dtype}"
        raise no_int8(f"only our own decoder has products in 8 bits, {where}", "; vLLM has its own")
    require_int8_shape(network.shape, cfg)
    return PackedTransformer(network, Compiled(dtype, torch.int8))


def require_int8_shape(shape: Shape, cfg: EngineConfig) -> None:
    """Raise ConfigError unless a decoder of this shape can be sampled in 8 bits on a CPU of this machine."""
    if cfg.kernels != "compiled" or not suits(shape):
        raise no_int8("products in 8 bits are compiled, which needs a C++ compiler, and widths that fill registers")
    if uneven := [width for width in widths(shape) if width % SPREAD]:
        raise no_int8(f"products in 8 bits take multiples of {SPREAD} inputs, this model's have {uneven[0]}")


def no_int8(problem: str, hint: str = "") -> ConfigError:
    """Why there are no products in 8 bits."""
    hint = f'set the engine\'s quantization = "none"{hint}'
    return ConfigError(problem, where="engine.quantization", found="int8", hint=hint)


def sampled_dtype(network: Network, cfg: EngineConfig) -> torch.dtype:
    """The number format that a network is sampled in."""
    if cfg.dtype == "model":
        return next(network.parameters()).dtype
    return fastest(network) if cfg.dtype == "fastest" else getattr(torch, cfg.dtype)


def fastest(network: Network) -> torch.dtype:
    """bfloat16 where the device multiplies in it, otherwise the network's own format."""
    own = next(network.parameters())
    if own.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else own.dtype
    packs = isinstance(network, Transformer) and can_pack(network, torch.bfloat16)
    return torch.bfloat16 if packs else own.dtype


@torch.inference_mode()
def fixed_runner(network: Network, cfg: EngineConfig, max_len: int) -> Runner:
    """A runner whose shapes never change, tried out on this machine before it is trusted."""
    if next(network.parameters()).dtype != torch.float32:
        raise ConfigError("a deterministic engine needs float32", hint='set the engine\'s dtype = "float32"')
    if not isinstance(network, Transformer):
        return RecomputingRunner(network, cfg.max_batch, alone=True)
    needed = cfg.max_batch * max_len * token_bytes(network.shape, torch.float32) / 2**30
    if needed > cfg.kv_memory:
        raise ConfigError(
            f"a deterministic engine of {cfg.max_batch} rows and {max_len} positions needs {needed:.1f} GiB",
            found=f"kv_memory {cfg.kv_memory} GiB",
            hint="lower max_len or max_batch, or raise kv_memory",
        )
    runner = FixedRunner(network, cfg.max_batch, max_len)
    if not runner.rows_agree():
        raise EnvironmentLacks(
            "this processor's matrix kernels give a row other bits in another place of the batch",
            found=f"max_batch {cfg.max_batch}, {torch.get_num_threads()} threads",
            hint="set max_batch to a multiple of 64, or use a power of two of threads",
        )
    return runner
