"""Judging on a Ray cluster, a real one of this machine: the groups of one process, whatever is killed."""

from __future__ import annotations

import os
import signal

import pytest
from tests.engine.asking import FIXED

from thinkery.core import Completion, Sampling, Score, Task
from thinkery.engine import open_engine
from thinkery.rewards.rubric import Part, Rubric
from thinkery.rollout import rollouts

ray = pytest.importorskip("ray", reason="thinkery[ray] is not installed")
TASKS = [Task(f"t{n}", f"Say {n}") for n in range(6)]


def place(task: Task, completion: Completion) -> Score:
    """Who judges, as the reason, which groups do not compare by here."""
    return Score(len(completion.text) / 100, f"{task.id} {len(completion.tokens)}")


@pytest.mark.slow
@pytest.mark.flaky(reruns=2)
def test_the_cluster_judges_as_this_process_does_also_after_losing_a_worker(network, tokenizer):
    from thinkery.engine.executor import open_executor

    limit = 40
    rubric = Rubric(long=Part(lambda task, completion: float(len(completion.tokens) > limit)), place=place)
    asked = {"sampling": Sampling(max_tokens=8), "rubric": rubric, "samples": 3, "seed": 1}
    with open_engine(network, tokenizer, FIXED) as engine:
        here = {group.task.id: group for group in rollouts(engine, TASKS, **asked)}
        with open_executor("local", workers=2, processors=2) as judges:
            pids = {judges.submit(os.getpid).result() for _ in range(4)}
            assert len(pids) == 2
            assert os.getpid() not in pids
            there = {group.task.id: group for group in rollouts(engine, TASKS, **asked, judges=judges)}
            os.kill(pids.pop(), signal.SIGKILL)
            again = {group.task.id: group for group in rollouts(engine, TASKS, **asked, judges=judges)}
    assert here == there == again
    assert not ray.is_initialized()
