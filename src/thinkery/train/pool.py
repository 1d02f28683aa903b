"""The pool of tasks that reinforcement learning draws its questions from: all equally often, or by difficulty.

A task that is always or never solved teaches nothing, because its attempts earn the same. The pool can leave such tasks
out before training, by the pass rate of the start model, and can draw the others the more often the nearer their
running pass rate is to one half, where rewards differ most. What was never asked counts as the tasks of its sort did of
late, so that a pool of which most is never asked is ordered too. A pass rate is the mean accuracy of the attempts
(their mean reward where nothing is called accuracy), held between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

import numpy as np
from pydantic import Field

from thinkery.config import Config
from thinkery.core import Group, Sampling, Task
from thinkery.engine import Engine
from thinkery.errors import InputError
from thinkery.pipeline.files import append_row, read_rows
from thinkery.pipeline.run import MEASURED, Run
from thinkery.rewards.rubric import Rubric
from thinkery.rollout import shared_rollouts
from thinkery.train.metrics import mean_accuracy
from thinkery.train.preflight import refuse_ungraded

Round = tuple[int, list[Task]]
"""Different tasks that are asked together. The number names the round, so that run seed, round, task and sample number
make a sample unique."""
CHUNK = 256
"""Tasks that are measured together."""
NEWEST = 0.2
"""Share that the newest group of a sort has in what its tasks are thought to teach."""
MIDDLE = (0.2, 0.8)
"""Pass rates that count as neither easy nor hard in the metrics."""


class PoolConfig(Config):
    """Settings of the pool; by default every task is asked equally often, as in the paper."""

    samples: int = Field(default=0, ge=0)
    """Attempts of the start model at every task, to leave out those outside the band; 0 leaves out none."""
    lowest: float = 0.1
    """Lowest pass rate of the start model at which a task stays."""
    highest: float = 0.9
    """Highest pass rate of the start model at which a task stays."""
    order: Literal["epochs", "difficulty"] = "epochs"
    """Shuffled epochs, each with every task once; or a draw in which a task's weight is 4 p (1 - p), p being its
    running pass rate: 1 at one half. A task that was never asked has the running weight of its sort, those of the same
    source, kind, environment and difficulty; 1 where none of them was asked."""
    floor: float = Field(default=0.1, gt=0)
    """Least weight in the draw by difficulty, so that a task once solved or failed by all is still asked again."""


@dataclass(slots=True)
class Pool:
    """What is known of the tasks; part of every checkpoint."""

    drawn: int = 0
    """Questions drawn so far."""
    size: int = 0
    """Tasks that the last ones were drawn from."""
    since: int = 0
    """Questions drawn before there were these tasks."""
    epoch: int = 0
    """Epochs begun before there were these tasks."""
    start: dict[str, float] = field(default_factory=dict)
    """Pass rate of the start model by task, where it was measured."""
    running: dict[str, float] = field(default_factory=dict)
    """Running pass rate by task: half the newest group's, half what it was before."""
    sorts: dict[str, float] = field(default_factory=dict)
    """Running weight by sort of task: a fifth the newest group's, the rest what it was before, at first 1."""

    def copy(self) -> Pool:
        """As it is now, whatever is drawn and watched later."""
        return replace(self, running=dict(self.running), sorts=dict(self.sorts))

    def rounds(self, cfg: PoolConfig, tasks: Sequence[Task], count: int, seed: int) -> list[Round]:
        """The next `count` questions."""
        inside = kept(cfg, self, tasks)
        if self.size and len(inside) != self.size:  # other tasks: epochs begin anew, under numbers of their own
            self.epoch += -(-(self.drawn - self.since) // self.size)
            self.since = self.drawn
        self.size = len(inside)
        if cfg.order == "epochs":
            drawn = epochs(inside, self.drawn - self.since, count, seed, first=self.epoch)
        else:
            drawn = by_weight(inside, self.weights(cfg, inside), self.drawn, count, seed)
        self.drawn += count
        return drawn

    def weights(self, cfg: PoolConfig, tasks: Sequence[Task]) -> np.ndarray:
        """How often each task is drawn, relative to one that half of the attempts solve."""
        known, sorts = self.running, self.sorts
        weights = [spread(known[one.id]) if one.id in known else sorts.get(sort_of(one), 1.0) for one in tasks]
        return np.maximum(np.array(weights), cfg.floor)

    def watch(self, groups: Iterable[Group]) -> None:
        """Take the groups' pass rates into the running ones."""
        for group in groups:
            if (rate := pass_rate(group)) is not None:
                self.running[group.task.id] = (self.running.get(group.task.id, rate) + rate) / 2
                sort = sort_of(group.task)
                before = self.sorts.get(sort, 1.0)
                self.sorts[sort] = before + NEWEST * (spread(rate) - before)

    def metrics(self, cfg: PoolConfig, tasks: Sequence[Task]) -> dict[str, float]:
        """Tasks inside, the share of them whose pass rate is known, these rates' mean, the share in the middle."""
        inside = kept(cfg, self, tasks)
        known = [self.running[task.id] for task in inside if task.id in self.running]
        found = {"pool/tasks": float(len(inside)), "pool/known": len(known) / len(inside)}
        if known:
            found["pool/pass_rate"] = fmean(known)
            found["pool/middle"] = fmean(MIDDLE[0] <= rate <= MIDDLE[1] for rate in known)
        return found


def measure(
    run: Run, cfg: PoolConfig, engine: Engine, tasks: Sequence[Task], rubric: Rubric, sampling: Sampling, limit: float
) -> Pool:
    """Ask the start model every task `cfg.samples` times; the pool that knows the pass rates.

    Raises Ungradable when more than `limit` of a chunk's attempts have no grade, Stopped when asked to stop.
    """
    pool, path = Pool(), run.dir / MEASURED
    before = run.ranks.tell({row["first"]: row["rates"] for row in read_rows(path)} if path.exists() else {})
    for first in range(0, len(tasks), CHUNK):
        chunk = tasks[first : first + CHUNK]
        if first not in before:
            groups = shared_rollouts(
                run.ranks, engine, chunk, sampling, rubric, samples=cfg.samples, seed=run.seed, step=-2
            )
            refuse_ungraded(groups, limit)
            pool.watch(groups)
            if run.rank == 0:
                rates = {task.id: pool.running[task.id] for task in chunk if task.id in pool.running}
                append_row(path, {"first": first, "rates": rates})
        pool.running |= before.get(first, {})
        if run.stopping:
            run.stop()
    pool.start = {task.id: pool.running[task.id] for task in tasks if task.id in pool.running}
    pool.sorts.clear()  # nothing is unknown now, and a measurement that was stopped would have other ones
    rates = list(pool.start.values())
    run.event(
        "pool",
        tasks=len(tasks),
        samples=cfg.samples * len(tasks),
        too_hard=sum(rate < cfg.lowest for rate in rates),
        too_easy=sum(rate > cfg.highest for rate in rates),
        kept=len(kept(cfg, pool, tasks)),
    )
    return pool


def kept(cfg: PoolConfig, pool: Pool, tasks: Sequence[Task]) -> Sequence[Task]:
    """The tasks without those that the start model solved too seldom or too often."""
    if not tasks:
        raise InputError("there are no tasks to learn from", hint="check the stage's task sources and their limits")
    if not pool.start:
        return tasks
    inside = [task for task in tasks if cfg.lowest <= pool.start.get(task.id, cfg.lowest) <= cfg.highest]
    if not inside:
        raise InputError(
            f"the start model's pass rate lies outside {cfg.lowest:g} to {cfg.highest:g} on every task",
            found=f"{len(tasks)} tasks, {fmean(pool.start.values()):.2f} on average",
            hint="widen grpo.pool.lowest and grpo.pool.highest, raise grpo.pool.samples, or choose other tasks",
        )
    return inside


def spread(rate: float) -> float:
    """How much the rewards of a group differ at this pass rate: their variance, times four."""
    return 4 * rate * (1 - rate)


def sort_of(task: Task) -> str:
    """What tasks have in common that are about as hard: source, kind, environment and difficulty."""
    return f"{task.source}/{task.kind}/{task.environment}/{task.info.get('difficulty', '')}"


def pass_rate(group: Group) -> float | None:
    """A group's pass rate; None when none of its attempts has a grade."""
    if all(reward is None for reward in group.rewards):
        return None
    return min(1.0, max(0.0, mean_accuracy(group)))


def epochs(tasks: Sequence[Task], start: int, count: int, seed: int, first: int = 0) -> list[Round]:
    """Questions number `start` to `start + count` of an endless series of shuffled epochs, by epoch."""
    found: list[Round] = []
    while count:
        epoch, place = divmod(start, len(tasks))
        epoch += first
        order = np.random.default_rng((seed, epoch)).permutation(len(tasks))[place : place + count]
        found.append((epoch, [tasks[i] for i in order]))
        start, count = start + len(order), count - len(order)
    return found


def by_weight(tasks: Sequence[Task], weights: np.ndarray, start: int, count: int, seed: int) -> list[Round]:
    """Questions from number `start` on, drawn by weight without replacement; a new round when all tasks are drawn."""
    found: list[Round] = []
    while count:
        waits = np.random.default_rng((seed, start)).exponential(size=len(tasks)) / weights
        order = np.argsort(waits, kind="stable")[:count]  # the first to arrive, as in Efraimidis and Spirakis (2006)
        found.append((start, [tasks[i] for i in order]))
        start, count = start + len(order), count - len(order)
    return found
