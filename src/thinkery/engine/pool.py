"""Several processes that sample as one engine, each from its own copy of the weights.

    with open_pool(network, tokenizer, EngineConfig(processes=2)) as engine: …

A request goes whole to the process with the fewest samples, so that a group's prompt is computed once. A sample is a
function of its seed, wherever it is computed: of a process that is lost, others do again what it had not finished.

Weights go through a folder that all processes read. A process samples nothing before it has named their version and
given a fixed text the learner's log-probabilities; otherwise RunFailed ends the run. Not handled: masks, biases and
alternatives of a request, which stay in one process.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from thinkery.core import Completion
from thinkery.engine import EngineConfig, longest_text, open_engine
from thinkery.engine.base import Event, LearningEngine, Request
from thinkery.engine.canary import CANARY, gap, text_logprobs
from thinkery.engine.member import Alive, Ask, Broken, Ended, Take, Taken, run_member
from thinkery.errors import InputError, RunFailed, Stalled
from thinkery.model.hf import save_model
from thinkery.model.lora import plain, plain_weights
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.weights import write_weights
from thinkery.process import Cancel, Stop, Worker, end_process, start_process

LOG = logging.getLogger("thinkery.engine")
"""Processes that were lost."""

RESTARTS = 10
"""How many lost processes are replaced before the run fails."""

CANARY_TOKENS = 16
"""Tokens of the canary that are compared."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""How far a process's log-probabilities of the canary may lie from the learner's, in nats a token on average."""

PATIENCE_S = 600.0
"""How long a process may take to start and to take new weights."""

TICK_S = 1.0
"""How long a step waits for news."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Weights as they were at one moment, in a folder, and what they make of the canary."""

    folder: Path
    version: int
    canary: tuple[int, ...]
    expected: tuple[float, ...]

    @property
    def order(self) -> Take:
        """What a process is told."""
        return Take(self.folder, self.version, self.canary)


@dataclass(slots=True)
class Asked:
    """A request and the numbers of its samples that are out, in the order in which a process was asked for them."""

    id: str
    request: Request
    deadline: float | None
    out: list[int]
    sent: tuple[int, ...] = ()

    def order(self) -> Ask:
        """What a process is told: the samples that are out, and the time that is left for them."""
        self.sent = tuple(self.out)
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        return Ask(
            self.id, replace(self.request, seeds=tuple(self.request.seeds[n] for n in self.out), deadline_s=left)
        )


@dataclass(slots=True, eq=False)
class Place:
    """A process as the pool sees it."""

    connection: Connection
    worker: Worker
    asked: dict[str, Asked] = field(default_factory=dict)
    ready: bool = False
    """Whether it samples from the weights that were delivered last."""
    unanswered: int = 0
    """Deliveries that it has not confirmed."""

    @property
    def load(self) -> int:
        """Samples that it has not finished."""
        return sum(len(one.out) for one in self.asked.values())

    def deliver(self, snapshot: Snapshot) -> None:
        """Have it take weights, before which it gets no more requests."""
        self.ready = False
        self.unanswered += 1
        self.send(snapshot.order)

    def send(self, message: Ask | Take | Cancel | Stop) -> None:
        """Tell the process; one that has died says so by its connection."""
        try:
            self.connection.send(message)
        except OSError:
            return


@contextmanager
def open_pool(network: Any, tokenizer: Tokenizer, cfg: EngineConfig, *, version: int = 0) -> Iterator[PoolEngine]:
    """An engine of `cfg.processes` processes for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="thinkery-pool-"))
    try:
        save_model(folder / "model", plain(network), tokenizer)
        engine = PoolEngine(network, tokenizer, cfg, folder, version)
        try:
            yield engine
        finally:
            engine.release()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_engines(network: Any, tokenizer: Tokenizer, cfg: EngineConfig) -> Iterator[LearningEngine]:
    """The engine that the settings ask for: in this process, or in `cfg.processes` of their own."""
    with (open_pool if cfg.processes else open_engine)(network, tokenizer, cfg) as engine:
        yield engine


class PoolEngine:
    """Samples in other processes from copies of the weights of `learner`.

    `bump` says that the weights have changed; they are delivered before the next request. Who learns while it samples
    calls `snapshot` in the learner's thread and `take` in the engine's instead.
    """

    def __init__(self, learner: Any, tokenizer: Tokenizer, cfg: EngineConfig, folder: Path, version: int) -> None:
        self.learner, self.tokenizer, self.cfg, self.folder = learner, tokenizer, cfg, folder
        self.own = next(learner.parameters())
        self.sampled = self.own.dtype if cfg.dtype == "model" else getattr(torch, cfg.dtype)
        self.max_len = longest_text(learner, cfg)
        self.version, self.delivered = version, Snapshot(folder, -1, (), ())
        self.submitted = self.lost = 0
        self.queue: deque[Asked] = deque()
        self.news: list[Event] = []
        self.interrupted = threading.Event()
        self.places = [self.begin() for _ in range(cfg.processes)]

    def begin(self) -> Place:
        """A new process, which loads the model."""
        cfg = self.cfg.model_copy(update={"processes": 0})
        args = (self.folder / "model", cfg, self.own.dtype, str(self.own.device))
        return Place(*start_process(run_member, *args, threads=cfg.threads))

    def submit(self, request: Request) -> str:
        """Queue a request, after delivering weights that have changed."""
        if request.mask or request.bias or request.alternatives:
            raise InputError(
                "a mask, a bias or alternatives cannot be sent to another process", hint="set engine.processes = 0"
            )
        if self.delivered.version != self.version:
            self.take(self.snapshot(self.version))
        self.submitted += 1
        deadline = None if request.deadline_s is None else time.monotonic() + request.deadline_s
        asked = Asked(f"p{self.submitted}", request, deadline, list(range(len(request.seeds))))
        self.queue.append(asked)
        return asked.id

    def step(self) -> list[Event]:
        """What has ended since the last call, waiting a while for it; an event without tokens says that work goes on.

        Raises what a process met and could not do, RunFailed when too many were lost or after `interrupt`.
        """
        if self.interrupted.is_set():
            raise RunFailed("sampling was interrupted")
        self.dispatch()
        if not self.news:
            self.listen()
        news, self.news = self.news, []
        return news

    def cancel(self, id: str) -> None:
        """Drop a request; its samples end as "cancelled" in the next step's events."""
        for place in self.places:
            if one := place.asked.pop(id, None):
                place.send(Cancel(id))
                self.drop(one)
        for one in [one for one in self.queue if one.id == id]:
            self.queue.remove(one)
            self.drop(one)

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Copy new weights into the learner, which the processes follow."""
        self.learner.load_state_dict(weights)
        self.bump(version)

    def bump(self, version: int) -> None:
        """The learner's weights have changed: they are delivered before the next request."""
        self.version = version

    def snapshot(self, version: int) -> Snapshot:
        """The learner's weights as they are now; for `take`, in the engine's thread."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        write_weights(folder, plain_weights(self.learner))
        canary = self.tokenizer.encode(CANARY)[: min(CANARY_TOKENS, self.max_len)]
        return Snapshot(folder, version, tuple(canary), tuple(text_logprobs(self.learner, canary)))

    def take(self, snapshot: Snapshot) -> None:
        """Deliver weights to all processes and check that they arrived; raises RunFailed."""
        if snapshot == self.delivered:
            return
        if self.queue or any(place.asked for place in self.places):
            raise RunFailed("weights cannot change under samples in flight", hint="finish or cancel them first")
        old, self.delivered, self.version = self.delivered, snapshot, snapshot.version
        for place in self.places:
            place.deliver(snapshot)
        end = time.monotonic() + PATIENCE_S
        while not all(place.ready for place in self.places):
            self.listen()
            if time.monotonic() > end:
                raise Stalled("an engine process does not take the weights", found=f"nothing for {PATIENCE_S:g} s")
        if old.folder != self.folder:
            shutil.rmtree(old.folder, ignore_errors=True)

    def interrupt(self) -> None:
        """End the work of `step` at once, from any thread; the engine is of no use afterwards."""
        self.interrupted.set()

    def release(self) -> None:
        """Drop what is in flight and end the processes."""
        self.queue.clear()
        for place in self.places:
            place.send(Stop())
        for place in self.places:
            if place.asked or not place.ready:
                place.worker.kill()
            end_process(place.worker)
            place.connection.close()
        self.places.clear()

    def dispatch(self) -> None:
        """Give what waits to the processes that have the least to do, while any has room."""
        while self.queue and (open_ones := [place for place in self.places if place.ready]):
            idlest = min(open_ones, key=lambda place: place.load)
            if idlest.load >= self.cfg.max_batch:
                return
            one = self.queue.popleft()
            idlest.asked[one.id] = one
            idlest.send(one.order())

    def listen(self) -> None:
        """Wait a while for what the processes say, and act on it."""
        if self.interrupted.is_set():
            raise RunFailed("sampling was interrupted")
        by_connection = {place.connection: place for place in self.places}
        for connection in wait(list(by_connection), timeout=TICK_S):
            place = by_connection[connection]  # pyright: ignore[reportArgumentType]
            try:
                said = place.connection.recv()
            except (EOFError, OSError):
                self.lose(place)
            else:
                self.hear(place, said)

    def hear(self, place: Place, said: Taken | Ended | Alive | Broken) -> None:
        """Act on what a process says."""
        if isinstance(said, Broken):
            raise said.error
        if isinstance(said, Taken):
            place.unanswered -= 1
            if not place.unanswered:
                self.check(said)
                place.ready = True
        elif isinstance(said, Ended):
            self.news += [event for one in said.events if (event := self.event(place, one))]
        else:
            self.news += [Event(one.id, one.out[0]) for one in place.asked.values()]

    def event(self, place: Place, ended: Event) -> Event | None:
        """A sample that has ended, by its number in the whole request; None where nobody waits for it."""
        one = place.asked.get(ended.request)
        if one is None or ended.completion is None:
            return None
        number = one.sent[ended.sample]
        one.out.remove(number)
        if not one.out:
            del place.asked[one.id]
        return replace(ended, sample=number, tokens=ended.completion.tokens, logprobs=ended.completion.logprobs)

    def check(self, said: Taken) -> None:
        """Raise RunFailed unless a process samples from the weights that were delivered."""
        wanted = self.delivered
        if said.version != wanted.version:
            raise RunFailed(
                "an engine process did not take the new weights",
                found=f"version {said.version} instead of {wanted.version}",
            )
        apart, limit = gap(said.canary, wanted.expected), TOLERANCE.get(self.sampled, max(TOLERANCE.values()))
        if not apart <= limit:
            raise RunFailed(
                f"an engine process does not sample from version {wanted.version} of the weights",
                found=f"log-probabilities of the canary differ by {apart:.3g} nats a token, over {limit:g}",
                hint='the weights did not arrive as they are: set engine.processes = 0, or engine.dtype = "float32"',
            )

    def lose(self, place: Place) -> None:
        """A process has died: another takes its place, and what it had not finished waits again, first in line."""
        self.lost += 1
        end_process(place.worker)
        place.connection.close()
        self.places.remove(place)
        LOG.warning("an engine process was lost with %d samples, number %d of this run", place.load, self.lost)
        if self.lost > RESTARTS:
            raise RunFailed(
                f"{self.lost} engine processes were lost",
                hint="look for what killed them, such as a lack of memory; the run continues from its last checkpoint",
            )
        self.queue.extendleft(reversed(place.asked.values()))
        fresh = self.begin()
        if self.delivered.version >= 0:
            fresh.deliver(self.delivered)
        self.places.append(fresh)

    def drop(self, one: Asked) -> None:
        """End what is out of a request."""
        ended = Completion("", finish="cancelled", version=self.version)
        self.news += [Event(one.id, number, completion=ended) for number in one.out]
