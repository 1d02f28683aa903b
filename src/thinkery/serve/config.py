"""Settings of the server: where it listens, what it lets in, what it charges."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Sampling
from thinkery.engine.http import HttpConfig
from thinkery.pipeline.prices import Prices

EngineName = Literal["native", "vllm"]
ProfileName = Literal["compat", "r1-2025-01", "r1-0528"]


class Limits(Config):
    """What one request, one key and everyone together may ask for."""

    body_bytes: int = Field(default=4 * 2**20, ge=1024)
    """Largest request body."""
    body_s: float = Field(default=20.0, gt=0)
    """How long a body may take to arrive."""
    headers_s: float = Field(default=20.0, gt=0)
    """How long a connection may take to send the headers of a request."""
    messages: int = Field(default=2048, ge=1)
    """Messages in one request."""
    choices: int = Field(default=16, ge=1)
    """Answers to one request (`n`, times the number of prompts)."""
    stops: int = Field(default=16, ge=1)
    """Stop strings."""
    waiting: int = Field(default=1024, ge=1)
    """Answers under way; more are refused as overload."""
    queue_s: float = Field(default=120.0, gt=0)
    """How long a request may wait for its first token."""
    request_s: float = Field(default=1800.0, gt=0)
    """How long an answer may take in all."""
    send_s: float = Field(default=60.0, gt=0)
    """How long a client may take nothing of what is sent to it before it counts as one that hung up, which is found out
    within twice this."""
    drain_s: float = Field(default=30.0, ge=0)
    """How long answers under way may go on after SIGTERM; a second one ends them at once."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests of one key; None does not count them."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and completion tokens of one key; None does not count them."""


class Risk(Config):
    """Who reads every exchange before it is shown; nobody unless a model or a judge is named."""

    model: str = ""
    """Folder of a safety model, which is a point-wise reward model as the stage `harmless` makes it."""
    judge: HttpConfig | None = None
    """Where a language model is that is asked whether an exchange is safe."""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=8192)
    """How the judge is sampled."""
    patience_s: float = Field(default=60.0, gt=0)
    """How long a verdict may take; without one the request fails."""


class Vllm(Config):
    """Where vLLM is, for `engine = "vllm"`."""

    python: str = ""
    """The Python of another virtual environment, in which vLLM is started as a server of its own; "" runs it in the
    engine's process."""
    arguments: tuple[str, ...] = ()
    """Further arguments of that server, such as `--tensor-parallel-size=2`."""
    patience_s: float = Field(default=600.0, gt=0)
    """How long vLLM may take to start."""


class Serve(Config):
    """How models are served."""

    host: str = "127.0.0.1"
    """Address to listen at; any but a loopback address needs keys."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen at; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which clients may address the server, besides localhost and plain IP addresses."""
    api_profile: ProfileName = "compat"
    """Which version of the contract the server speaks."""
    engine: EngineName = "native"
    """What computes: the built-in engine, or vLLM, which lacks some of what requests may ask for."""
    vllm: Vllm = Vllm()
    """Where vLLM is."""
    replicas: int = Field(default=1, ge=1)
    """Engine processes behind the door."""
    dtype: Literal["fastest", "float32", "bfloat16"] = "fastest"
    """Number format of the models: bfloat16 where the device multiplies in it, or always one of the two."""
    quantization: Literal["none", "int8"] = "none"
    """Multiply in 8 bits on a CPU: with AVX-512 VNNI answers come sooner, and are those of a model that is only nearly
    the same."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of each engine process; None shares the processors out evenly, but gives models of less than 64 MB one: a
    second would mostly wait, and be waited for, on processors that the server and its clients need too."""
    max_batch: int = Field(default=64, ge=1)
    """Answers that one replica continues at the same time."""
    kv_memory: float = Field(default=2.0, gt=0)
    """GiB of each model that a replica has opened for keys and values, of those that run and of the prefixes that are
    remembered. A model is opened when it is first asked for and stays open, so that a replica may come to take as often
    this much as there are models."""
    max_len: int | None = Field(default=None, ge=2)
    """Longest prompt and completion together, in tokens; None is what the model has positions for."""
    deterministic: bool = False
    """Make every answer independent of its neighbours to the last bit, in float32 and at a cost."""
    promote_unclosed: bool = False
    """Repeat a thought that was never closed as the answer, for clients that read nothing else."""
    keep_alive_s: float = Field(default=5.0, gt=0)
    """How long a stream stays silent before a comment shows that it lives."""
    prices: Prices = Prices()
    """What tokens cost."""
    limits: Limits = Limits()
    """What is refused."""
    risk: Risk = Risk()
    """What is withheld."""
