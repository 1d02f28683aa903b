"""A process of its own at the other end of a connection: how replicas of the server and engines of a pool are run.

What it is sent it takes between any two steps of its work. It ends when it is told to `Stop`, or when nobody is left at
the other end. `Caller` is what a process is that makes calls for others.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
END_S = 10.0
"""How long a process may take to end before it is killed."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """A job that nobody waits for any more."""

    job: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The process is not needed any more."""


class Channel(Protocol):
    """What the process sees of its connection."""

    def poll(self, timeout: float | None = 0.0) -> bool: ...

    def recv(self) -> Any: ...

    def send(self, obj: Any, /) -> None: ...


class Desk(Protocol):
    """The work of one process."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to advance."""
        ...

    def take(self, job: Any) -> None:
        """Begin a job."""
        ...

    def cancel(self, job: str) -> None:
        """Stop a job."""
        ...

    def advance(self) -> None:
        """One step of everything under way; tells what has come of it."""
        ...


class Caller:
    """Calls what it is told to, one thing after the other."""

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, or raises."""
        return function(*args, **kwargs)


class Worker(Protocol):
    """A process as those see it who started it."""

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool: ...

    def kill(self) -> None: ...


def start_process(
    main: Callable[..., None], *args: object, threads: int | None = None
) -> tuple[Connection, BaseProcess]:
    """A process that calls `main(connection, *args)`, and our end of the connection."""
    ours, theirs = Pipe()
    process = get_context("spawn").Process(target=_begin, args=(threads, main, theirs, *args), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _begin(threads: int | None, main: Callable[..., None], connection: Connection, *args: object) -> None:
    """What the process does. Ctrl-C and SIGTERM are the business of who started it, and closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    import torch

    if threads:
        torch.set_num_threads(threads)
    try:
        main(connection, *args)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    finally:
        connection.close()


def settle() -> None:
    """Have the garbage collector leave alone what is there: beside PyTorch, one look over all of it takes 0.1 s."""
    gc.collect()
    gc.freeze()


def work(connection: Channel, desk: Desk) -> None:
    """Take what is sent and advance what is under way until told to stop; raises EOFError when nobody listens."""
    while True:
        while connection.poll(0 if desk.busy else None):
            sent = connection.recv()
            if isinstance(sent, Stop):
                return
            if isinstance(sent, Cancel):
                desk.cancel(sent.job)
            else:
                desk.take(sent)
        desk.advance()


def end_process(worker: Worker) -> None:
    """Wait for a process that was told to stop, and kill it where that takes too long."""
    worker.join(END_S)
    if worker.is_alive():
        worker.kill()
        worker.join()
