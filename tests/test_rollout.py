"""Rollouts: every task asked, every attempt judged, groups as they are finished."""

import threading
import time

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tokenizers.pre_tokenizers import Whitespace

from thinkery.core import Sampling, Score, Task, seed_of
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.rewards.rubric import Part, Rubric
from thinkery.rollout import rollouts

TASKS = [Task(f"t{i}", f"{i} and {i + 1}") for i in range(6)]
SAMPLING = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def engine():
    words = ["<eos>", "and", *map(str, range(10))]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="and"))
    backend.pre_tokenizer = Whitespace()
    backend.add_special_tokens(["<eos>"])
    tokenizer = Tokenizer(backend, eos="<eos>", template="{{ messages[-1].content }}")
    network = Transformer(Shape("llama", 12, 16, 32, 1, 2, 1, 8, max_position_embeddings=64))
    network.initialise(torch.Generator().manual_seed(0), std=0.5)
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        yield engine


def length(task, completion):
    return len(completion.tokens)


def test_groups_hold_every_attempt_with_its_scores_in_order_of_sample(engine):
    def even(task, completion):
        return Score(float(len(completion.tokens) % 2 == 0), f"{len(completion.tokens)} tokens")

    rubric = Rubric(length=Part(length, weight=0.5), even=even)
    groups = {group.task.id: group for group in rollouts(engine, TASKS, SAMPLING, rubric, samples=4, seed=1)}
    assert set(groups) == {task.id for task in TASKS}
    for group in groups.values():
        assert [r.sample for r in group.rollouts] == [0, 1, 2, 3]
        for rollout in group.rollouts:
            n = len(rollout.completion.tokens)
            assert list(rollout.scores) == ["length", "even"]
            assert rollout.reward == n * 0.5 + (n % 2 == 0)
            assert engine.tokenizer.decode(rollout.prompt) == group.task.prompt


def test_a_sample_is_decided_by_seed_step_task_and_number_alone(engine):
    rubric = Rubric(length=length)

    def said(tasks, **where):
        groups = rollouts(engine, tasks, SAMPLING, rubric, **where)
        return {g.task.id: [r.completion.tokens for r in g.rollouts] for g in groups}

    everything = said(TASKS, samples=3, seed=5, step=2)
    assert said(TASKS[3:4], samples=2, seed=5, step=2) == {"t3": everything["t3"][:2]}
    assert said(TASKS, samples=3, seed=5, step=3) != everything
    request = Request((seed_of(5, 2, "t3", 1),), SAMPLING, TASKS[3].messages)
    [(_, [event])] = generate(engine, [request])
    assert event.completion.tokens == everything["t3"][1]


def test_judging_runs_beside_generation(engine):
    threads, judged_at = set(), {}

    def slow(task, completion):
        threads.add(threading.current_thread())
        time.sleep(0.01)
        judged_at[task.id] = time.monotonic()
        return 1.0

    short = Sampling(max_tokens=2)
    stream = rollouts(engine, TASKS, short, Rubric(slow=slow), samples=1, seed=0)
    assert sum(1 for _ in stream) == 6
    assert len(threads) == 1
    assert threads != {threading.main_thread()}


def test_the_failure_of_a_rubric_surfaces(engine):
    class Broken(Rubric):
        def judge(self, pairs):
            raise RuntimeError("the judge is gone")

    with pytest.raises(RuntimeError, match="the judge is gone"):
        list(rollouts(engine, TASKS, SAMPLING, Broken(), samples=2, seed=0))
    assert not engine.step() or all(event.completion for event in engine.step())


def test_what_was_finished_before_the_engine_failed_is_judged_and_handed_over(engine, monkeypatch):
    def slow(task, completion):
        time.sleep(0.02)
        return 1.0

    step, finished = engine.step, []

    def failing():
        if len(finished) >= 4:
            raise RuntimeError("out of memory")
        events = step()
        finished.extend(event.request for event in events if event.completion)
        return events

    monkeypatch.setattr(engine, "step", failing)
    stream, found = rollouts(engine, TASKS, SAMPLING, Rubric(slow=slow), samples=2, seed=0), []
    with pytest.raises(RuntimeError, match="out of memory"):
        found.extend(group.rewards for group in stream)
    whole = [request for request in set(finished) if finished.count(request) == 2]
    assert 1 <= len(whole) < len(TASKS)
    assert found == [(1.0, 1.0)] * len(whole)


def test_a_reward_that_raises_leaves_the_attempt_ungraded(engine):
    def broken(task, completion):
        raise ValueError("no gold")

    [group] = rollouts(engine, TASKS[:1], SAMPLING, Rubric(broken=broken), samples=2, seed=0)
    assert group.rewards == (None, None)
    assert "no gold" in group.rollouts[0].scores["broken"].reason


def test_a_caller_who_stops_early_leaves_an_engine_with_nothing_in_flight(engine):
    stream = rollouts(engine, TASKS, Sampling(max_tokens=40), Rubric(length=length), samples=2, seed=0)
    next(stream)
    stream.close()
    engine.step()
    assert engine.step() == []
