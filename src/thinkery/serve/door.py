"""From requests to replicas and back: who computes a job, and who waits for its news.

A job goes to the replica that is likely to remember the longest beginning of its prompt, unless that one is much
busier than the idlest; one that is still opening its model gets none while another is ready. When a replica dies, a
new one takes its place; jobs of which nothing was heard go to another replica, once, and the others end with a problem.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing.connection import Connection

from thinkery.errors import ThinkeryError
from thinkery.process import Cancel, Stop, Worker, end_process
from thinkery.serve.inbox import Inbox
from thinkery.serve.jobs import Job, Load, News
from thinkery.serve.spread import Spread

UNIT = 64
"""Tokens of a unit of the prefix cache."""

REMEMBERED = 65_536
"""Units of which the door remembers where they were computed, for each replica."""

SLACK = 8
"""How many more jobs than the idlest a replica may have and still get those whose beginnings it knows."""

TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
"""Between which seconds from token to token are told apart."""

RETRY_S = 10.0
"""Pause before the next try where a replica did not begin."""

LOST = "The engine process was lost; please retry"


@dataclass(slots=True, eq=False)
class Waiting:
    """A job and who waits for it."""

    job: Job
    news: Inbox
    heard: bool = False
    moved: bool = False
    cancelled: bool = False
    tokens: int = 0
    """How many have come of it."""
    told_at: float = 0.0
    """When the latest of them came."""


@dataclass(slots=True, eq=False)
class Replica:
    """A replica as the door sees it."""

    connection: Connection
    worker: Worker
    waiting: dict[str, Waiting] = field(default_factory=dict)
    known: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    load: float | None = None
    """Share of its memory for keys and values in use; None until it is ready."""
    outbox: queue.SimpleQueue[Job | Cancel | Stop] = field(default_factory=queue.SimpleQueue)

    def send(self, message: Job | Cancel | Stop) -> None:
        """Tell the replica; one that has died says so by its connection."""
        self.outbox.put(message)

    def send_all(self) -> None:
        """Send what there is to send, up to a `Stop`: in a thread, for a busy replica may be long in taking it."""
        message = None
        while not isinstance(message, Stop):
            message = self.outbox.get()
            with suppress(BrokenPipeError, ConnectionResetError):
                self.connection.send(message)

    def matched(self, names: Sequence[bytes]) -> int:
        """How many of these units, from the first on, the replica should remember."""
        return next((i for i, name in enumerate(names) if name not in self.known), len(names))

    def learn(self, names: Sequence[bytes]) -> None:
        """It computes these units now."""
        for name in names:
            self.known[name] = None
            self.known.move_to_end(name)
        while len(self.known) > REMEMBERED:
            self.known.popitem(last=False)


class Door:
    """The replicas of a server, heard and told in the thread of the event loop."""

    def __init__(
        self,
        start: Callable[[], tuple[Connection, Worker]],
        replicas: int,
        note: Callable[[Sequence[News]], None],
    ) -> None:
        self.start, self.note, self.closing = start, note, False
        """`note` hears of everything before anybody else."""
        self.loop = asyncio.get_running_loop()
        self.ready = asyncio.Event()
        """Whether a replica was ever open, or as many as there should be could not begin: see `open` for which."""
        self.wanted, self.failed = replicas, 0
        """Replicas there should be, and how often one could not begin."""
        self.gaps = Spread(TOKEN_S)
        """Seconds between two steps that brought tokens of the same job."""
        self.problem: ThinkeryError | None = None
        """Why the model could not be opened."""
        self.places: dict[str, Replica] = {}
        """Where each job is computed."""
        self.replicas = [self.begin() for _ in range(replicas)]

    def begin(self) -> Replica:
        """A new replica, to which the event loop listens."""
        replica = Replica(*self.start())
        threading.Thread(target=replica.send_all, daemon=True).start()
        self.loop.add_reader(replica.connection.fileno(), self.hear, replica)
        os.set_blocking(replica.connection.fileno(), True)  # uvloop ends it, and half a message must be waited for
        return replica

    def hear(self, replica: Replica) -> None:
        """Pass on all that a replica has said by now: a busy event loop comes back to it less often than it speaks."""
        try:
            self.pass_on(replica, replica.connection.recv())
            while replica.connection.poll():
                self.pass_on(replica, replica.connection.recv())
        except (EOFError, OSError):
            self.part_from(replica)
            self.lose(replica)

    def pass_on(self, replica: Replica, said: Load | ThinkeryError | list[News]) -> None:
        """Tell those whom it concerns."""
        if isinstance(said, Load):
            replica.load = said.cache
            self.ready.set()
        elif isinstance(said, ThinkeryError):
            self.problem = said
        else:
            self.note(said)
            self.deliver(said)

    def part_from(self, replica: Replica) -> None:
        """Listen to it no more."""
        self.loop.remove_reader(replica.connection.fileno())
        replica.send(Stop())

    @property
    def under_way(self) -> int:
        """Jobs that have not ended."""
        return len(self.places)

    @property
    def queued(self) -> int:
        """Jobs of which nothing was heard yet."""
        return sum(not waiting.heard for replica in self.replicas for waiting in replica.waiting.values())

    @property
    def open(self) -> int:
        """Replicas that are ready."""
        return sum(replica.load is not None for replica in self.replicas)

    @property
    def usage(self) -> float:
        """How full the replicas' memories are, on average."""
        loads = [replica.load for replica in self.replicas if replica.load is not None]
        return sum(loads) / max(1, len(loads))

    def submit(self, job: Job, news: Inbox) -> None:
        """Have a job computed; what comes of it is put into `news`."""
        self.place(Waiting(job, news))

    def place(self, waiting: Waiting) -> None:
        """Give a job to a replica."""
        names = list(unit_names(waiting.job.prompt, waiting.job.salt, waiting.job.model))
        open_ones = [replica for replica in self.replicas if replica.load is not None] or self.replicas
        if not open_ones:
            waiting.news.put(News(waiting.job.id, problem=LOST))
            return
        idlest = min(len(replica.waiting) for replica in open_ones)
        fit = [replica for replica in open_ones if len(replica.waiting) <= idlest + SLACK]
        chosen = max(fit, key=lambda replica: (replica.matched(names), -len(replica.waiting)))
        chosen.learn(names)
        chosen.waiting[waiting.job.id] = waiting
        self.places[waiting.job.id] = chosen
        chosen.send(waiting.job)

    def cancel(self, job: str) -> None:
        """Stop a job; its last news says so."""
        if job in self.places:
            self.places[job].waiting[job].cancelled = True
            self.places[job].send(Cancel(job))

    def deliver(self, batch: Sequence[News]) -> None:
        """Hand news to those who wait."""
        now = time.monotonic()
        for news in batch:
            replica = self.places.get(news.job)
            if replica is None:
                continue
            waiting = replica.waiting[news.job]
            waiting.heard = True
            if news.tokens > waiting.tokens:
                self.measure(waiting, news.tokens, now)
            waiting.news.put(news)
            if news.end is not None or news.problem:
                del replica.waiting[news.job], self.places[news.job]

    def measure(self, waiting: Waiting, tokens: int, now: float) -> None:
        """Note how long it took until more tokens came; those that come together have come in one step."""
        if waiting.tokens and now > waiting.told_at:
            self.gaps.add(now - waiting.told_at)
        waiting.tokens, waiting.told_at = tokens, now

    def lose(self, replica: Replica) -> None:
        """A replica has died: a new one takes its place, and jobs nobody has heard of go on elsewhere."""
        self.replicas.remove(replica)
        if replica.load is None:  # it could not even begin, and the next one may fare no better
            self.failed += 1
            if self.failed >= self.wanted:
                self.ready.set()
            self.loop.call_later(RETRY_S, self.again)
        else:
            self.again()
        for id, waiting in replica.waiting.items():
            del self.places[id]
            if waiting.cancelled:
                waiting.news.put(News(id, end="cancelled"))
            elif waiting.heard or waiting.moved:
                waiting.news.put(News(id, problem=LOST))
            else:
                waiting.moved = True
                self.place(waiting)

    def again(self) -> None:
        """One more replica, unless all is over."""
        if not self.closing:
            self.replicas.append(self.begin())

    def close(self, *, at_once: bool = False) -> None:
        """End all replicas, those that are still opening their model at once; what is under way is lost."""
        self.closing = True
        for replica in self.replicas:
            self.part_from(replica)
            if at_once or replica.load is None:
                replica.worker.kill()
        for replica in self.replicas:
            end_process(replica.worker)


def unit_names(prompt: Sequence[int], salt: str, model: str) -> Iterator[bytes]:
    """A name for every whole unit of a prompt, each depending on all before it and on the owner."""
    text = blake2b(f"{model}\n{salt}\n".encode(), digest_size=16)
    for end in range(UNIT, len(prompt) + 1, UNIT):
        text.update(array("q", prompt[end - UNIT : end]).tobytes())
        yield text.digest()
