"""The one verb: ask every task several times, judge every attempt. Training, data making and evaluation use it.

tasks ─► engine.generate ─► rubric.judge, in a thread beside ─► groups, as they are judged

Where the rubric has workers elsewhere (`rewards/rubric.py:Spread`), they judge beside that thread.
Several ranks share the tasks: each samples and judges its part, and every rank gets all groups (`shared_rollouts`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from thinkery.core import Group, Rollout, Sampling, Task, seed_of
from thinkery.engine.base import Engine, Event, Request, generate
from thinkery.pipeline.ranks import Ranks
from thinkery.rewards.rubric import Rubric, Timed, Verdict

UNJUDGED = 64
"""Groups that may wait to be judged before generation waits for them."""


def rollouts(
    engine: Engine,
    tasks: Iterable[Task],
    sampling: Sampling,
    rubric: Rubric,
    *,
    samples: int,
    seed: int,
    step: int = 0,
    clock: Clock | None = None,
) -> Iterator[Group]:
    """Judged groups of `samples` attempts at each task, in the order in which they are finished.

    A sample's seed depends on (seed, step, task id, sample number) alone. Judging overlaps with the generation of
    other groups; what it raises is raised here. Generation rests while the caller works on a group. Where it fails,
    the groups that were finished before are judged and handed over first: they may have been paid for. Where there is
    a clock, waiting for judges after everything is generated is its phase "grading".
    """
    clock = clock or Clock()
    asked = list(tasks)
    requests = [
        Request(
            tuple(seed_of(seed, step, task.id, n) for n in range(samples)),
            sampling,
            task.messages,
            chat_template=task.chat_template,
        )
        for task in asked
    ]
    judged: deque[Future[Group]] = deque()
    failure: Exception | None = None
    with judging(rubric) as submit:
        try:
            for i, events in generate(engine, requests):
                judged.append(submit(asked[i], events))
                while judged and (judged[0].done() or len(judged) > UNJUDGED):
                    yield judged.popleft().result()
        except Exception as problem:
            failure = problem
        while judged:
            with clock("grading"):
                group = judged.popleft().result()
            yield group
    if failure:
        raise failure


def shared_rollouts(
    ranks: Ranks,
    engine: Engine,
    tasks: Sequence[Task],
    sampling: Sampling,
    rubric: Rubric,
    *,
    samples: int,
    seed: int,
    step: int = 0,
    clock: Clock | None = None,
) -> list[Group]:
    """The judged groups of `rollouts` in the order of the tasks, on every rank; each has worked on an equal share."""
    own = list(
        rollouts(engine, ranks.share(tasks), sampling, rubric, samples=samples, seed=seed, step=step, clock=clock)
    )
    by_task = {group.task.id: group for part in ranks.gather(own) for group in part}
    return [by_task[task.id] for task in tasks]


@contextmanager
def judging(rubric: Rubric) -> Iterator[Callable[[Task, Sequence[Event]], Future[Group]]]:
    """What has the finished samples of a task judged, in a thread beside the caller, in the order of the calls."""
    with ThreadPoolExecutor(1, thread_name_prefix="judge") as thread:

        def submit(task: Task, events: Sequence[Event]) -> Future[Group]:
            pairs = [(task, event.completion) for event in events if event.completion]
            return thread.submit(judge, task, events, rubric.begin(pairs))

        try:
            yield submit
        finally:
            thread.shutdown(cancel_futures=True)


def judge(task: Task, events: Sequence[Event], finish: Callable[[], Timed[list[Verdict]]]) -> Group:
    """The finished samples of one task with their scores, which `finish` gives."""
    verdicts, seconds = finish()
    said = [event.completion for event in events if event.completion]
    attempts = tuple(
        Rollout(task, event.prompt, completion, scores, reward, event.sample)
        for event, completion, (scores, reward) in zip(events, said, verdicts, strict=True)
    )
    return Group(task, attempts, judge_s=seconds)


class Clock:
    """Seconds by phase: `with clock("rollout"): …`. An inner phase interrupts the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.phase, self.since = "", time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time inside the block to this phase."""
        outer = self.turn(phase)
        try:
            yield
        finally:
            self.turn(outer)

    def turn(self, phase: str) -> str:
        """Begin a phase; returns the one that ends."""
        ended, now = self.phase, time.perf_counter()
        self.seconds[ended] = self.seconds.get(ended, 0.0) + now - self.since
        self.phase, self.since = phase, now
        return ended

    def lap(self) -> dict[str, float]:
        """The seconds of each phase since the last lap; what was in none is under ""."""
        taken, self.seconds = self.seconds, {}
        return taken
