"""One process of a pool: a copy of the network, the built-in engine around it, and what it is asked.

It is sent `Ask`, `Take` and `Cancel`, and says `Taken`, `Ended`, `Alive` and, in the end, `Broken`. Weights come as a
folder that all processes of a machine read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, NativeEngine, open_engine
from thinkery.engine.base import Event, Request, generate
from thinkery.errors import ThinkeryError
from thinkery.model.hf import load_model
from thinkery.model.weights import fill, read_weights
from thinkery.process import work

ALIVE_S = 1.0
"""How often a process that has nothing to tell says so."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, under the pool's name for it."""

    id: str
    request: Request


@dataclass(frozen=True, slots=True)
class Take:
    """The weights to sample from now on, and the text by which they are known."""

    folder: Path
    version: int
    canary: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What the engine is after `Take`: its version, and the log-probability of every token but the canary's first."""

    version: int
    canary: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """Samples that have ended."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Alive:
    """Samples go on."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An error that another process would meet too."""

    error: ThinkeryError


def run_member(connection: Connection, folder: Path, cfg: EngineConfig, dtype: torch.dtype, device: str) -> None:
    """What the process does: load the model of a folder and sample."""
    try:
        network, tokenizer = load_model(folder, dtype)
        with ExitStack() as stack:
            engine = stack.enter_context(open_engine(network.to(device).eval(), tokenizer, cfg))
            work(connection, Member(connection, network, engine))
    except ThinkeryError as error:
        connection.send(Broken(error))


class Member:
    """The requests of one process."""

    def __init__(self, connection: Connection, network: nn.Module, engine: NativeEngine) -> None:
        self.connection, self.network, self.engine = connection, network, engine
        self.under_way: dict[str, str] = {}
        """The pool's names by the engine's."""
        self.out: dict[str, int] = {}
        """Samples that have not ended, by the engine's names."""
        self.told = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether any sample goes on."""
        return bool(self.under_way)

    def take(self, job: Ask | Take) -> None:
        """Begin a request, or change the weights."""
        if isinstance(job, Take):
            self.change(job)
            return
        id = self.engine.submit(job.request)
        self.under_way[id], self.out[id] = job.id, len(job.request.seeds)

    def change(self, job: Take) -> None:
        """Read weights, and tell what they make of the canary."""
        self.engine.step()  # what was cancelled leaves
        fill(self.network, read_weights(job.folder), where=str(job.folder))
        self.engine.bump(job.version)
        self.connection.send(Taken(self.engine.version, forced_logprobs(self.engine, job.canary)))

    def cancel(self, job: str) -> None:
        """Stop a request, of which nothing more is told."""
        for id in [id for id, name in self.under_way.items() if name == job]:
            self.engine.cancel(id)
            del self.under_way[id], self.out[id]

    def advance(self) -> None:
        """One step, and what has ended with it."""
        events = [event for event in self.engine.step() if event.completion and event.request in self.under_way]
        ended = [replace(event, request=self.under_way[event.request]) for event in events]
        for event in events:
            self.out[event.request] -= 1
            if not self.out[event.request]:
                del self.under_way[event.request], self.out[event.request]
        now = time.monotonic()
        if ended or now - self.told > ALIVE_S:
            self.connection.send(Ended(tuple(ended)) if ended else Alive())
            self.told = now


def forced_logprobs(engine: NativeEngine, tokens: Sequence[int]) -> tuple[float, ...]:
    """The log-probability of every token but the first, as sampling computes it: no other is allowed in its place."""
    request = Request(
        (0,),
        Sampling(max_tokens=len(tokens) - 1),
        prompt=(tokens[0],),
        salt="canary",
        mask=lambda generated: [tokens[1 + len(generated)]],
    )
    [(_, [event])] = generate(engine, [request])
    assert event.completion
    return event.completion.logprobs
