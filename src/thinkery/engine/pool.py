"""Several members that work as one: those of `PoolEngine` sample, each from its own copy of the weights.

    with open_pool(network, tokenizer, EngineConfig(processes=2)) as engine: …                  # of this machine
    with open_pool(network, tokenizer, EngineConfig(processes=8, ray="auto")) as engine: …      # of a Ray cluster

A request goes whole to the member with the fewest samples, so that a group's prompt is computed once. A sample is a
function of its seed, wherever it is computed: of a member that is lost, others do again what it had not finished.

A member samples nothing before it has named the version of new weights and given a fixed text the learner's
log-probabilities; otherwise RunFailed ends the run. One that says nothing for `patience_s`, though it has something to
do, is as good as dead. Where nothing is left but members that do not start, Stalled ends the run, which continues when
there are machines again. Where members run, and how weights come to them, is `Members`'s business. Not handled: masks,
biases and alternatives of a request, which stay in one process. `Pool` is shared with members that do other work
(`scoring.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import torch

from thinkery.core import Completion
from thinkery.engine import EngineConfig, MembersConfig, longest_text, open_engine, sampled_dtype
from thinkery.engine.base import Event, LearningEngine, Request
from thinkery.engine.delivery import Snapshot, snapshot_of
from thinkery.engine.member import Ask, Broken, Ended, LearningMembers, Link, Lost, Members, Order, Said, Take, Taken
from thinkery.engine.processes import open_processes
from thinkery.errors import InputError, RunFailed, Stalled
from thinkery.model.hf import formats_of
from thinkery.model.lora import plain_weights
from thinkery.model.tokenizer import Tokenizer
from thinkery.process import Cancel, Stop

LOG = logging.getLogger("thinkery.engine")
"""Members that were lost."""

RESTARTS = 5
"""How often each member is replaced, on average, with no sample finished in between, before the run fails."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.int8: 0.5}
"""How far a member's log-probabilities of the canary may lie from the learner's, in nats a token on average."""

TICK_S = 1.0
"""How long a step waits for news."""


class Job(Protocol):
    """What a member is asked, under an `id`; `out` are the numbers of its parts that no member has told."""

    id: str
    out: list[int]

    def order(self) -> Order:
        """What a member is told."""
        ...


J = TypeVar("J", bound=Job)


@dataclass(slots=True)
class Asked:
    """A request and the numbers of its samples that are out, in the order in which a member was asked for them."""

    id: str
    request: Request
    deadline: float | None
    out: list[int]
    sent: tuple[int, ...] = ()

    def order(self) -> Ask:
        """What a member is told: the samples that are out, and the time that is left for them."""
        self.sent = tuple(self.out)
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        return Ask(self.id, replace(self.request.only(self.out), deadline_s=left))


@dataclass(slots=True, eq=False)
class Place(Generic[J]):
    """A member as the pool sees it."""

    link: Link
    spare: bool = False
    """Whether the others need not wait for it to come up: it replaces one that was lost, or takes too long."""
    asked: dict[str, J] = field(default_factory=dict)
    up: bool = False
    """Whether it has said anything yet; before, nothing is sent to it."""
    ready: bool = False
    """Whether it can be asked: where weights change, it has those that were delivered last."""
    unanswered: int = 0
    """Deliveries that it has not confirmed."""
    since: float = field(default_factory=time.monotonic)
    """When it last said something, or was given something to do after a rest."""

    @property
    def load(self) -> int:
        """Samples, or other parts of jobs, that it has not finished."""
        return sum(len(one.out) for one in self.asked.values())

    @property
    def owes(self) -> bool:
        """Whether a word of it is due: it starts, takes weights, or works."""
        return bool(self.asked) or not self.ready

    def deliver(self, snapshot: Snapshot) -> None:
        """Have it take weights, before which it gets no more requests; one that starts gets them when it is up."""
        if self.up:
            self.tell(Take(snapshot.weights, snapshot.version, snapshot.canary))
            self.unanswered += 1
        self.ready = False

    def ask(self, one: J) -> None:
        """Give it a job."""
        self.tell(one.order())
        self.asked[one.id] = one

    def tell(self, order: Order) -> None:
        """Send an order; where it had rested, its time runs from now."""
        if not self.owes:
            self.since = time.monotonic()
        self.link.send(order)


@contextmanager
def open_pool(network: Any, tokenizer: Tokenizer, cfg: EngineConfig, *, version: int = 0) -> Iterator[PoolEngine]:
    """An engine of as many members as the settings ask for, for as long as the block lasts."""
    multiplied = torch.int8 if cfg.quantization == "int8" else sampled_dtype(network, cfg)
    learnt = formats_of(network).matrices
    tolerance = max(TOLERANCE.get(format, TOLERANCE[torch.bfloat16]) for format in (multiplied, learnt))
    with (
        open_members(network, tokenizer, cfg) as members,
        pooled(network, tokenizer, cfg, members, tolerance, version) as engine,
    ):
        yield engine


@contextmanager
def pooled(
    network: Any, tokenizer: Tokenizer, cfg: EngineConfig, members: LearningMembers, tolerance: float, version: int
) -> Iterator[PoolEngine]:
    """The members as one engine, for as long as the block lasts.

    `tolerance` is how far their log-probabilities of the canary may lie from the network's, in nats a token on average.
    """
    engine = PoolEngine(network, tokenizer, cfg, members, tolerance, version)
    try:
        yield engine
    finally:
        engine.release()


@contextmanager
def open_members(network: Any, tokenizer: Tokenizer, cfg: EngineConfig) -> Iterator[LearningMembers]:
    """Processes of this machine, or actors of the Ray cluster that is named."""
    if cfg.ray:
        from thinkery.engine.ray import open_actors as open_them  # takes a second, and is an extra
    else:
        open_them = open_processes
    with open_them(network, tokenizer, cfg) as members:
        yield members


@contextmanager
def open_engines(network: Any, tokenizer: Tokenizer, cfg: EngineConfig) -> Iterator[LearningEngine]:
    """The engine that the settings ask for: in this process, in processes of their own, or on a Ray cluster."""
    with (open_pool if cfg.processes or cfg.ray else open_engine)(network, tokenizer, cfg) as engine:
        yield engine


class Pool(ABC, Generic[J]):
    """Members that share jobs: each goes to who has the least to do, and what one that is lost had not done to others.

    `most` is how much a member is given at a time, in parts of jobs.
    """

    setting = "engine"
    """Where the members' settings are, for what is said of them."""

    def __init__(self, members: Members, cfg: MembersConfig, most: int) -> None:
        self.members, self.cfg, self.most = members, cfg, most
        self.lost = self.in_a_row = 0
        self.queue: deque[J] = deque()
        self.interrupted = threading.Event()
        self.places: list[Place[J]] = [Place(members.start()) for _ in range(members.count)]

    def waiting(self) -> list[J]:
        """Jobs that are not finished."""
        return [*self.queue, *(one for place in self.places for one in place.asked.values())]

    def dispatch(self) -> None:
        """Give what waits to the members that have the least to do, while any has room."""
        while self.queue and (open_ones := [place for place in self.places if place.ready]):
            idlest = min(open_ones, key=lambda place: place.load)
            if idlest.load >= self.most:
                return
            one = self.queue.popleft()
            idlest.ask(one)

    def listen(self) -> None:
        """Wait a while for what the members say, and act on it; raises Stalled where all take too long to start."""
        if self.interrupted.is_set():
            raise RunFailed("sampling was interrupted")
        by_link = {place.link: place for place in self.places}
        for link in self.members.heard(list(by_link), TICK_S):
            try:
                told = link.receive()
            except EOFError:
                self.lose(by_link[link])
            else:
                for said in told:
                    self.hear(by_link[link], said)
        self.watch()

    def watch(self) -> None:
        """Give up members that say nothing though they owe it, and the run where none answers or may yet start."""
        now = time.monotonic()
        for place in [one for one in self.places if one.up and one.owes and now - one.since > self.cfg.patience_s]:
            self.lose(place, f"which had said nothing for {self.cfg.patience_s:g} s")
        late = [one for one in self.places if not one.up and now - one.since > self.cfg.start_s]
        for place in late:
            if not place.spare:
                place.spare = True
                LOG.warning("an engine has not started in %g s; it joins the others when it does", self.cfg.start_s)
        if len(late) == len(self.places):
            raise Stalled(
                f"none of {len(late)} engines has started in {self.cfg.start_s:g} s",
                where=f"{self.setting}.start_s",
                found=f"{len(self.waiting())} requests that wait",
                hint="look at what runs there, with vLLM (vllm.patience_s) at its servers; the same command continues"
                " from the last checkpoint",
            )

    def hear(self, place: Place[J], said: Said) -> None:
        """Act on what a member says."""
        place.since = time.monotonic()
        if isinstance(said, Broken):
            raise said.error
        if isinstance(said, Lost):
            self.lose(place, f"which said: {said.why}")
        elif not place.up:
            place.up, place.spare = True, False
            self.begin(place)
        else:
            self.told(place, said)

    @abstractmethod
    def begin(self, place: Place[J]) -> None:
        """A member has started."""

    @abstractmethod
    def told(self, place: Place[J], said: Said) -> None:
        """A member says how its work goes."""

    def lose(self, place: Place[J], why: str = "which has ended") -> None:
        """A member is gone: another takes its place, and what it had not finished waits again, first in line."""
        self.lost, self.in_a_row = self.lost + 1, self.in_a_row + 1
        place.link.kill()
        place.link.end()
        self.places.remove(place)
        LOG.warning("an engine was lost with %d unfinished, %s; number %d of this run", place.load, why, self.lost)
        if self.in_a_row > RESTARTS * self.members.count:
            raise RunFailed(
                f"{self.in_a_row} engines in a row were lost",
                hint="look for what killed them, such as a lack of memory; the run continues from its last checkpoint",
            )
        self.queue.extendleft(reversed(place.asked.values()))
        self.places.append(Place(self.members.start(), spare=True))

    def interrupt(self) -> None:
        """End whoever waits at once, from any thread; the pool is of no use afterwards."""
        self.interrupted.set()

    def release(self) -> None:
        """Drop what is in flight and end the members."""
        self.queue.clear()
        for place in self.places:
            if place.asked or not place.ready:
                place.link.kill()
            else:
                place.link.send(Stop())
        for place in self.places:
            place.link.end()
        self.places.clear()


class PoolEngine(Pool[Asked]):
    """Samples elsewhere from copies of the weights of `learner`.

    `bump` says that the weights have changed; they are delivered before the next request. Who learns while it samples
    calls `snapshot` in the learner's thread and `take` in the engine's instead.
    """

    members: LearningMembers

    def __init__(
        self,
        learner: Any,
        tokenizer: Tokenizer,
        cfg: EngineConfig,
        members: LearningMembers,
        tolerance: float,
        version: int,
    ) -> None:
        self.learner, self.tokenizer, self.tolerance = learner, tokenizer, tolerance
        self.max_len = longest_text(learner, cfg)
        self.version = version
        self.delivered: Snapshot | None = None
        self.submitted = 0
        self.news: list[Event] = []
        super().__init__(members, cfg, most=cfg.max_batch)

    def submit(self, request: Request) -> str:
        """Queue a request, after delivering weights that have changed."""
        if request.mask or request.bias or request.alternatives:
            raise InputError(
                "a mask, a bias or alternatives cannot be sent to another process",
                hint="set engine.processes = 0 and no engine.ray",
            )
        if self.delivered is None or self.delivered.version != self.version:
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
        return news or [Event(one.id, one.out[0]) for one in self.waiting()]  # that patience is ours, not the caller's

    def cancel(self, id: str) -> None:
        """Drop a request; its samples end as "cancelled" in the next step's events."""
        for place in self.places:
            if one := place.asked.pop(id, None):
                place.link.send(Cancel(id))
                self.drop(one)
        for one in [one for one in self.queue if one.id == id]:
            self.queue.remove(one)
            self.drop(one)

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Copy new weights into the learner, which the members follow."""
        self.learner.load_state_dict(weights)
        self.bump(version)

    def bump(self, version: int) -> None:
        """The learner's weights have changed: they are delivered before the next request."""
        self.version = version

    def snapshot(self, version: int) -> Snapshot:
        """The learner's weights as they are now; for `take`, in the engine's thread."""
        weights = self.members.store(plain_weights(self.learner))
        return snapshot_of(weights, version, self.learner, self.tokenizer, self.max_len)

    def take(self, snapshot: Snapshot) -> None:
        """Deliver weights to all members and check that they arrived; raises RunFailed."""
        if snapshot == self.delivered:
            return
        if self.queue or any(place.asked for place in self.places):
            raise RunFailed("weights cannot change under samples in flight", hint="finish or cancel them first")
        old, self.delivered, self.version = self.delivered, snapshot, snapshot.version
        for place in self.places:
            place.deliver(snapshot)
        while not (any(one.ready for one in self.places) and all(one.ready or one.spare for one in self.places)):
            self.listen()
        if old is not None:
            old.weights.drop()

    def begin(self, place: Place[Asked]) -> None:
        """A member that has started takes the weights, where there are any yet."""
        if self.delivered is not None:
            place.deliver(self.delivered)

    def told(self, place: Place[Asked], said: Said) -> None:
        """Weights have been taken, samples have ended, or go on."""
        if isinstance(said, Taken):
            place.unanswered -= 1
            if not place.unanswered:
                assert self.delivered is not None
                self.delivered.check(said.version, said.canary, self.tolerance)
                place.ready = True
        elif isinstance(said, Ended):
            self.in_a_row = 0
            self.news += [event for one in said.events if (event := self.event(place, one))]
        else:
            self.news += [Event(one.id, one.out[0]) for one in place.asked.values()]

    def event(self, place: Place[Asked], ended: Event) -> Event | None:
        """A sample that has ended, by its number in the whole request; None where nobody waits for it."""
        one = place.asked.get(ended.request)
        if one is None or ended.completion is None:
            return None
        number = one.sent[ended.sample]
        one.out.remove(number)
        if not one.out:
            del place.asked[one.id]
        return replace(ended, sample=number, tokens=ended.completion.tokens, logprobs=ended.completion.logprobs)

    def drop(self, one: Asked) -> None:
        """End what is out of a request."""
        ended = Completion("", finish="cancelled", version=self.version)
        self.news += [Event(one.id, number, completion=ended) for number in one.out]
