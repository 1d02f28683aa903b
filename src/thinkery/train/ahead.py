"""When rollouts are sampled: in turn with the updates, or ahead of them in another thread.

    in turn      sample 0 │ learn 0 │ sample 1 │ learn 1 │ …
    ahead = 1    sample 0 │ sample 1 │ sample 2 │ …
                          │ learn 0  │ learn 1  │ …

Rollout r + ahead is begun when rollout r is about to be learnt, with the weights of that moment. So every rollout is
learnt exactly `ahead` rollouts late (the first ones less), however long anything takes, and a run stays a function of
its seed. Of several ranks each samples its share in a thread of its own, and these threads gather apart from the
learners (`Ranks.beside`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from thinkery.engine.base import FollowingEngine, LearningEngine, RestingEngine
from thinkery.errors import ConfigError, Stopped
from thinkery.pipeline.ranks import Ranks
from thinkery.pipeline.run import Run
from thinkery.rollout import Clock
from thinkery.train.optim import Learner

T = TypeVar("T")
Work = Callable[[Clock], T]
"""Something that samples, and counts its time."""
Timed = tuple[T, Mapping[str, float]]
"""What was made, and the seconds by phase that it took beside the learner."""


class Schedule(Protocol):
    """Decides when and from which weights things are sampled."""

    ranks: Ranks
    """Those among which sampling is shared."""

    def ask(self, work: Work[T]) -> T:
        """The result of work that samples from the weights as they are."""
        ...

    def rollouts(self, works: Iterable[Work[T]]) -> Iterator[Timed[T]]:
        """The results of all works, in order, each when it is to be learnt."""
        ...

    def learning(self) -> None:
        """The weights are about to change."""
        ...

    def moved(self) -> None:
        """The weights have changed."""
        ...


@contextmanager
def schedule_of(run: Run, ahead: int, learner: Learner, engine: LearningEngine, clock: Clock) -> Iterator[Schedule]:
    """Rollouts in turn at 0; ConfigError where the engine cannot sample ahead."""
    if not ahead:
        yield InTurn(run.ranks, learner, engine, clock)
        return
    if not isinstance(engine, FollowingEngine):
        raise ConfigError(
            "this engine samples from the very weights that learn, so it cannot sample ahead",
            where="grpo.ahead",
            found=str(ahead),
            hint="set engine.processes = 1, with vLLM vllm.python, vllm.url or engine.ray; or grpo.ahead = 0",
        )
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        schedule = Ahead(ahead, run.ranks.beside(), learner, engine, clock, thread)
        try:
            yield schedule
        except BaseException as error:
            schedule.abandon(together=isinstance(error, Stopped))
            raise
        schedule.abandon(together=True)


class InTurn:
    """Samples when it is asked, and the learner waits."""

    def __init__(self, ranks: Ranks, learner: Learner, engine: LearningEngine, clock: Clock) -> None:
        self.ranks, self.learner, self.engine, self.clock = ranks, learner, engine, clock

    def ask(self, work: Work[T]) -> T:
        """The result of the work."""
        return work(self.clock)

    def rollouts(self, works: Iterable[Work[T]]) -> Iterator[Timed[T]]:
        """Each result when it is asked for; all of its time is the learner's."""
        for work in works:
            with self.clock("rollout"):
                made = work(self.clock)
            yield made, {}

    def learning(self) -> None:
        """Let an engine of this process make room."""
        if isinstance(self.engine, RestingEngine):
            self.engine.rest()

    def moved(self) -> None:
        """Tell the engine."""
        self.engine.bump(self.learner.version)


class Ahead:
    """Samples in a thread, one work after the other, each from the weights of when it was begun."""

    def __init__(
        self,
        ahead: int,
        ranks: Ranks,
        learner: Learner,
        engine: FollowingEngine,
        clock: Clock,
        thread: ThreadPoolExecutor,
    ) -> None:
        self.ahead, self.ranks, self.thread = ahead, ranks, thread
        self.learner, self.engine, self.clock = learner, engine, clock
        self.begun: deque[Future[Timed[Any]]] = deque()
        self.last: Future[Timed[Any]] | None = None
        self.newest: tuple[int, Any] = (-1, None)
        """The last snapshot, and its version."""

    def ask(self, work: Work[T]) -> T:
        """The result of the work, after what was begun before."""
        return self.begin(work).result()[0]

    def rollouts(self, works: Iterable[Work[T]]) -> Iterator[Timed[T]]:
        """The results in order; while one is learnt, the next `ahead` are begun."""
        for work in works:
            with self.clock("delivery"):
                self.begun.append(self.begin(work))
            if len(self.begun) > self.ahead:
                yield self.next()
        while self.begun:
            yield self.next()

    def learning(self) -> None:
        """Nothing: the engine goes on sampling."""

    def moved(self) -> None:
        """Nothing: the engine has a copy, and takes the newest weights with the next work."""

    def begin(self, work: Work[T]) -> Future[Timed[T]]:
        """Queue work for the thread, with the weights as they are."""
        if self.newest[0] != self.learner.version:
            self.newest = self.learner.version, self.engine.snapshot(self.learner.version)
        self.last = future = self.thread.submit(self.sample, self.newest[1], work)
        return future

    def sample(self, snapshot: Any, work: Work[T]) -> Timed[T]:
        """What the thread does."""
        clock = Clock()
        with clock("rollout"):
            self.engine.take(snapshot)
            made = work(clock)
        return made, clock.lap()

    def next(self) -> Timed[Any]:
        """Wait for the oldest work."""
        with self.clock("waiting"):
            return self.begun.popleft().result()

    def abandon(self, *, together: bool) -> None:
        """Give up what was begun and is not done: as all ranks do, or this one alone, which waits for no other."""
        if self.last is not None and not self.last.done():
            self.engine.interrupt()
        for future in self.begun:
            future.cancel()
        if together:
            self.thread.submit(self.ranks.leave)
        self.thread.shutdown(wait=False)
