"""One member of a pool: a copy of the network, the built-in engine around it, and what it is asked.

It is sent `Ask`, `Take` and `Cancel`, and says `Alive` when it has started, then `Taken`, `Ended`, `Alive` and, where
it cannot go on, `Lost` or `Broken`. One whose model does not change, a teacher, is sent `Score` and says `Scored`.
`Members` is what a pool asks of the place where they run: processes of this machine (`processes.py`) or actors of a Ray
cluster (`ray.py`), and servers of vLLM, each asked by such a process (`vllm_pool.py`) or actor (`vllm_ray.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, NativeEngine, open_engine
from thinkery.engine.base import Event, Request, generate
from thinkery.engine.delivery import Weights
from thinkery.errors import ThinkeryError
from thinkery.model.hf import Formats, load_model
from thinkery.model.weights import fill
from thinkery.process import Cancel, Channel, Stop, work

ALIVE_S = 1.0
"""How often a member that has nothing to tell says so."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, under the pool's name for it."""

    id: str
    request: Request


@dataclass(frozen=True, slots=True)
class Take:
    """The weights to sample from now on, and the text by which they are known."""

    weights: Weights
    version: int
    canary: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What the engine is after `Take`: its version, and the log-probability of every token but the canary's first."""

    version: int | str
    canary: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """Samples that have ended."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Tokens, of which the first `given` are not asked about; at least one is given."""

    tokens: Sequence[int] | np.ndarray
    given: int


@dataclass(frozen=True, slots=True)
class Score:
    """Texts whose log-probabilities under softmax(logits / temperature) are asked for."""

    id: str
    texts: tuple[Text, ...]
    temperature: float


@dataclass(frozen=True, slots=True)
class Scored:
    """Of each text the log-probability of every token that is not given."""

    id: str
    logprobs: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Alive:
    """The member has started, or its samples go on."""


@dataclass(frozen=True, slots=True)
class Lost:
    """It samples no more, and why: another can do its work."""

    why: str


@dataclass(frozen=True, slots=True)
class Broken:
    """An error that another member would meet too."""

    error: ThinkeryError


Order = Ask | Take | Score | Cancel | Stop
Said = Taken | Ended | Scored | Alive | Lost | Broken


class Link(Protocol):
    """A member as its pool reaches it."""

    def send(self, order: Order) -> None:
        """Tell it; one that has died says so when it is listened to."""
        ...

    def receive(self) -> list[Said]:
        """What it has said, at least one thing; raises EOFError when it has died."""
        ...

    def end(self) -> None:
        """Wait for one that was told to stop, for a while; it has ended afterwards."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Members(Protocol):
    """Where members run."""

    count: int
    """How many there are to be."""

    def start(self) -> Link:
        """A new member, which loads the model."""
        ...

    def heard(self, links: Sequence[Link], timeout: float) -> list[Link]:
        """Those that have said something or died, as soon as there is one, none after `timeout` seconds."""
        ...


class LearningMembers(Members, Protocol):
    """Where members run whose weights change, and how these come to them."""

    def store(self, weights: Mapping[str, Tensor]) -> Weights:
        """A copy of the weights as they are now, where every member can read it."""
        ...


def run_member(connection: Channel, folder: Path, cfg: EngineConfig, formats: Formats, device: str) -> None:
    """What a member does: load the model of a folder, in the learner's formats, and sample."""
    try:
        network, tokenizer = load_model(folder, formats)
        with ExitStack() as stack:
            engine = stack.enter_context(open_engine(network.to(device).eval(), tokenizer, cfg))
            connection.send(Alive())
            work(connection, Member(connection, engine, partial(change, network, engine)))
    except ThinkeryError as error:
        connection.send(Broken(error))


class Sampler(Protocol):
    """What a member asks of its engine, as in `Engine`."""

    def submit(self, request: Request) -> str: ...

    def step(self) -> list[Event]: ...

    def cancel(self, id: str) -> None: ...


class Member:
    """The requests of one member; `change` has its engine take weights."""

    def __init__(self, connection: Channel, engine: Sampler, change: Callable[[Take], Taken]) -> None:
        self.connection, self.engine, self.change = connection, engine, change
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
            self.connection.send(self.change(job))
            return
        id = self.engine.submit(job.request)
        self.under_way[id], self.out[id] = job.id, len(job.request.seeds)

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


class Scorer:
    """The texts of one member, which `score` gives log-probabilities at a temperature."""

    busy = False

    def __init__(
        self, connection: Channel, score: Callable[[Sequence[Text], float], Sequence[Sequence[float]]]
    ) -> None:
        self.connection, self.score = connection, score

    def take(self, job: Score) -> None:
        """Score texts."""
        self.connection.send(Scored(job.id, self.score(job.texts, job.temperature)))

    def cancel(self, job: str) -> None:
        """Nothing: what is taken is done."""

    def advance(self) -> None:
        """Nothing goes on."""


def change(network: nn.Module, engine: NativeEngine, job: Take) -> Taken:
    """Read weights, and say what the engine makes of the canary with them."""
    engine.step()  # what was cancelled leaves
    fill(network, job.weights.read(), where=f"version {job.version}")
    engine.bump(job.version)
    return Taken(engine.version, forced_logprobs(engine, job.canary))


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
