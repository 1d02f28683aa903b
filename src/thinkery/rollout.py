"""The one verb: ask every task several times, judge every attempt. Training, data making and evaluation use it.

tasks ─► engine.generate ─► rubric.judge, in a thread beside ─► groups, as they are judged
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from thinkery.core import Completion, Group, Rollout, Sampling, Task, seed_of
from thinkery.engine.base import Engine, Event, Request, generate
from thinkery.rewards.rubric import Rubric

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
) -> Iterator[Group]:
    """Judged groups of `samples` attempts at each task, in the order in which they are finished.

    A sample's seed depends on (seed, step, task id, sample number) alone. Judging overlaps with the generation of
    other groups; what it raises is raised here. Generation rests while the caller works on a group.
    """
    asked = list(tasks)
    requests = [
        Request(tuple(seed_of(seed, step, task.id, n) for n in range(samples)), sampling, task.messages)
        for task in asked
    ]
    judged: deque[Future[Group]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="judge") as thread:
        try:
            for i, events in generate(engine, requests):
                judged.append(thread.submit(judge, asked[i], events, rubric))
                while judged and (judged[0].done() or len(judged) > UNJUDGED):
                    yield judged.popleft().result()
            while judged:
                yield judged.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)


def judge(task: Task, events: list[Event], rubric: Rubric) -> Group:
    """The finished samples of one task with their scores."""
    pairs: list[tuple[Task, Completion]] = [(task, event.completion) for event in events if event.completion]
    return Group(
        task,
        tuple(
            Rollout(task, event.prompt, completion, scores, reward, event.sample)
            for event, (_, completion), (scores, reward) in zip(events, pairs, rubric.judge(pairs), strict=True)
        ),
    )
