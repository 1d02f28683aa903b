"""Calls on a Ray cluster with the interface of `concurrent.futures`, for work that needs processors and no weights.

    with open_executor("auto") as executor:
        future = executor.submit(rubric.scores, pairs)

Workers are actors, one for each processor of the cluster unless told otherwise, started with the first call. Several
ranks share the processors out. Workers reserve nothing, since engines may have taken all processors, so the system
shares these out. A call must be a function of its arguments: Ray starts a worker that was lost again and calls once
more what that one had not answered.

Nobody waits for ever: where the head of the cluster is gone, or no worker has answered for `patience_s`, an answer that
is waited for raises Stalled, and RankLost where Ray itself gives up. The run continues by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from thinkery.engine.ray import LOOK_S, Head, RayError, connected, leaving, lost, raised, ray  # with its settings
from thinkery.errors import Stalled
from thinkery.process import Caller

P = ParamSpec("P")
T = TypeVar("T")
OPTIONS: dict[str, Any] = {
    "num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": "SPREAD",
}  # fmt: skip
"""Of every worker."""


@contextmanager
def open_executor(
    address: str, workers: int = 0, processors: int = 0, patience_s: float = 600.0, ranks: int = 1
) -> Iterator[Executor]:
    """Workers on the cluster at an address for as long as the block lasts, at 0 this rank's share of its processors.

    "local", a cluster of this machine and of this rank alone, takes it to have `processors`.
    """
    with connected(address, processors):
        has = int(ray.cluster_resources().get("CPU", 1))
        count = workers or max(1, has if address == "local" else has // ranks)
        executor = Executor(Head(address), count, patience_s)
        try:
            yield executor
        finally:
            executor.close()


class Executor:
    """Calls go to `count` workers in turn."""

    def __init__(self, head: Head, count: int, patience_s: float) -> None:
        self.head, self.count, self.patience_s = head, count, patience_s
        self.workers: list[Any] = []
        self.asked = 0
        self.heard = 0.0
        """When a worker last answered."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call the function."""
        if not self.workers:
            self.start()
        called: Called[T] = Called(self)
        worker = self.workers[self.asked % self.count]
        self.asked += 1
        try:
            answer = worker.call.remote(function, *args, **kwargs).future()
        except (RayError, ConnectionError) as error:
            raise lost(error) from error
        answer.add_done_callback(called.take)
        called.ray = answer
        return called

    def start(self) -> None:
        """Start the workers."""
        self.head.wait()
        actor: Any = ray.remote(**OPTIONS)(Caller)
        self.workers = [actor.remote() for _ in range(self.count)]

    def watch(self, since: float) -> None:
        """Raise Stalled where what was asked at a time is not to be expected any more."""
        self.head.look()
        if time.monotonic() - max(self.heard, since) > self.patience_s:
            raise Stalled(
                f"none of {self.count} workers of the Ray cluster has answered for {self.patience_s:g} s",
                where="engine.patience_s",
                hint="look at what they do there; the same command continues from the last checkpoint",
            )

    def close(self) -> None:
        """End the workers, and what they have not done; where the cluster is lost, they end with this process."""
        for worker in self.workers if self.head.answers() else ():
            with leaving():
                ray.kill(worker)


class Called(Future[T]):
    """The answer to a call; who waits for it looks after the cluster meanwhile."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self.executor, self.since = executor, time.monotonic()
        self.ray: Future[T] | None = None
        """Ray's own future, which says nothing of a cluster that is gone."""

    def result(self, timeout: float | None = None) -> T:
        """What the function returns, or raises."""
        self.executor.head.look()
        while timeout is None and wait([self], LOOK_S).not_done:
            self.executor.watch(self.since)
        return super().result(timeout)

    def take(self, answer: Future[T]) -> None:
        """Take over what Ray has heard."""
        self.executor.heard = time.monotonic()
        error = answer.exception()
        if error is None:
            self.set_result(answer.result())
        else:
            self.set_exception(raised(error))
