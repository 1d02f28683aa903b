"""Calls on a Ray cluster with the interface of `concurrent.futures`, for work that needs processors and no weights.

    with open_executor("auto") as executor:
        future = executor.submit(judge, task, events, rubric)

Workers are actors, one for each processor of the cluster unless told otherwise. They reserve nothing, since engines may
have taken all processors, so the system shares these out. A call must be a function of its arguments: Ray starts a
worker that was lost again and calls once more what that one had not answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import cycle
from typing import Any, ParamSpec, TypeVar

import ray

from thinkery.engine.ray import connected

P = ParamSpec("P")
T = TypeVar("T")
OPTIONS: dict[str, Any] = {
    "num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": "SPREAD",
}  # fmt: skip
"""Of every worker."""


class Worker:
    """A process somewhere on the cluster that calls what it is told to, one thing after the other."""

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, or raises."""
        return function(*args, **kwargs)


@contextmanager
def open_executor(address: str, workers: int = 0, processors: int = 0) -> Iterator[Executor]:
    """Workers on the cluster at an address for as long as the block lasts, at 0 as many as it has processors; a cluster
    of this machine alone takes it to have `processors`."""
    with connected(address, processors):
        executor = Executor(workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
        try:
            yield executor
        finally:
            executor.close()


class Executor:
    """Calls go to the workers in turn."""

    def __init__(self, workers: int) -> None:
        actor: Any = ray.remote(**OPTIONS)(Worker)
        self.workers = [actor.remote() for _ in range(workers)]
        self.next = cycle(self.workers)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call the function."""
        return next(self.next).call.remote(function, *args, **kwargs).future()

    def close(self) -> None:
        """End the workers, and what they have not done."""
        for worker in self.workers:
            ray.kill(worker)
