from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from thinkery.core import Completion, Group, Rollout, Sampling, Score, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.errors import InputError, Stopped
from thinkery.pipeline.run import MEASURED, Run
from thinkery.rewards.rubric import Rubric
from thinkery.train.grpo import Grpo, grpo
from thinkery.train.policy import PolicyConfig
from thinkery.train.pool import Pool, PoolConfig, by_weight, epochs, kept, measure, sort_of

TASKS = [Task(f"t{n}", f"{n}?") for n in range(6)]
SAMPLING = Sampling(max_tokens=4)
WEIGHTED = PoolConfig(order="difficulty", floor=0.1)


def group(task: Task, *right: float | None) -> Group:
    said = Completion("x", (1,), (-1.0,))
    return Group(task, tuple(Rollout(task, (9,), said, {"accuracy": Score(r)}, r, i) for i, r in enumerate(right)))


def test_every_epoch_asks_every_task_once():
    drawn = [(epoch, task.id) for epoch, tasks in epochs(TASKS, 4, 10, seed=1) for task in tasks]
    assert Counter(epoch for epoch, _ in drawn) == {0: 2, 1: 6, 2: 2}
    assert {task for epoch, task in drawn if epoch == 1} == {task.id for task in TASKS}
    assert epochs(TASKS, 4, 10, seed=1) == epochs(TASKS, 4, 2, seed=1) + epochs(TASKS, 6, 8, seed=1)


def test_a_task_weighs_most_at_one_half_and_never_nothing():
    pool = Pool(running={"t0": 0.5, "t1": 0.25, "t2": 0.0, "t3": 1.0, "t4": 0.9})
    assert pool.weights(WEIGHTED, TASKS).tolist() == pytest.approx([1.0, 0.75, 0.1, 0.1, 0.36, 1.0])


def test_a_task_never_asked_weighs_as_the_newest_of_its_sort():
    hard, easy = [
        [Task(f"{name}{n}", "?", "math", source="math", info={"difficulty": level}) for n in range(3)]
        for name, level in (("hard", 5), ("easy", 1))
    ]
    pool = Pool()
    pool.watch([group(hard[0], 0, 0, 0, 0), group(hard[1], 0, 0, 0, 0), group(easy[0], 1, 0, 0, 0)])
    assert pool.sorts == pytest.approx({sort_of(hard[0]): 0.64, sort_of(easy[0]): 0.95})  # 0.8², 0.8 + 0.2 * 4 * 3/16
    weights = pool.weights(WEIGHTED, [*hard, *easy, *TASKS[:1]])
    assert weights.tolist() == pytest.approx([0.1, 0.1, 0.64, 0.75, 0.95, 0.95, 1.0])
    before = pool.copy()
    pool.watch([group(hard[0], 0)])
    assert before.sorts != pool.sorts
    for _ in range(20):
        pool.watch([group(hard[0], 0, 0)])
    assert pool.weights(WEIGHTED, hard).tolist() == [0.1, 0.1, 0.1]


def test_sorts_are_told_apart_by_environment_too():
    sums, products = (
        Task("t", "?", "environment", info={"environment": {"name": name}}) for name in ("sums", "products")
    )
    assert sort_of(sums) != sort_of(products) == sort_of(products)


def test_a_draw_by_weight_is_as_frequent_as_the_weights_and_never_repeats_in_a_round():
    weights = np.array([4.0, 2.0, 1.0, 1.0])
    draws = [by_weight(TASKS[:4], weights, start, 1, seed=7)[0][1][0].id for start in range(4000)]
    shares = [Counter(draws)[f"t{n}"] / 4000 for n in range(4)]
    assert shares == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.02)
    rounds = by_weight(TASKS[:4], weights, 10, 9, seed=7)
    assert [(number, len(tasks), len({task.id for task in tasks})) for number, tasks in rounds] == [
        (10, 4, 4), (14, 4, 4), (18, 1, 1),
    ]  # fmt: skip
    assert by_weight(TASKS[:4], weights, 10, 9, seed=7) == rounds


def test_half_of_a_running_pass_rate_is_the_newest_group():
    pool = Pool()
    pool.watch([group(TASKS[0], 1, 0, 0, 0), group(TASKS[1], None, None)])
    pool.watch([group(TASKS[0], 1, 1, 1, 0)])
    assert pool.running == {"t0": 0.5}


def test_tasks_outside_the_band_are_left_out_and_unknown_ones_stay():
    cfg = PoolConfig(samples=4, lowest=0.25, highest=0.75)
    pool = Pool(start={"t0": 0.0, "t1": 0.25, "t2": 0.75, "t3": 1.0})
    assert [task.id for task in kept(cfg, pool, TASKS)] == ["t1", "t2", "t4", "t5"]
    assert kept(cfg, Pool(), TASKS) == TASKS
    with pytest.raises(InputError, match=r"(?s)outside 0\.25 to 0\.75 on every task.*2 tasks, 0\.50 on average.*widen"):
        kept(cfg, pool, [TASKS[0], TASKS[3]])
    with pytest.raises(InputError, match="no tasks"):
        kept(cfg, pool, [])


def test_the_pools_state_is_told_in_numbers():
    pool = Pool(start={"t0": 0.0}, running={"t0": 0.0, "t1": 0.5, "t2": 0.8, "t3": 0.95})
    assert pool.metrics(PoolConfig(samples=4), TASKS) == {
        "pool/tasks": 5, "pool/known": 0.6, "pool/pass_rate": pytest.approx(0.75), "pool/middle": pytest.approx(2 / 3),
    }  # fmt: skip


def test_questions_come_from_what_is_left_and_the_middle_is_asked_more_often():
    pool = Pool(start={"t0": 0.0, "t1": 0.5, "t2": 0.5}, running={"t1": 0.5, "t2": 1.0})
    cfg = PoolConfig(samples=2, order="difficulty", floor=0.1)
    asked = Counter(
        task.id for _ in range(400) for _, tasks in pool.rounds(cfg, TASKS[:3], 1, seed=3) for task in tasks
    )
    assert pool.drawn == 400
    assert asked["t0"] == 0
    assert asked["t1"] / asked["t2"] == pytest.approx(10, rel=0.4)


def odd(task: Task, completion: Completion) -> float:
    """Never right on t0, always on t1, by the last token on the others."""
    return {"t0": 0.0, "t1": 1.0}.get(task.id, float(completion.tokens[-1] % 2))


def test_the_start_models_pass_rates_are_measured_and_told(make_policy, run):
    policy = make_policy()
    cfg = PoolConfig(samples=8)
    with open_engine(policy.network, policy.tokenizer, EngineConfig(max_batch=64, max_len=64)) as engine:
        pool = measure(run, cfg, engine, TASKS, Rubric(accuracy=odd), SAMPLING, limit=0.2)
        run.stopping = True
        with pytest.raises(Stopped):
            measure(run, cfg, engine, TASKS, Rubric(accuracy=odd), SAMPLING, limit=0.2)
    assert list(pool.start) == [task.id for task in TASKS]
    assert (pool.start["t0"], pool.start["t1"]) == (0.0, 1.0)
    assert all(0 < pool.start[f"t{n}"] < 1 for n in range(2, 6))
    assert pool.running == pool.start
    assert pool.sorts == {}
    (event,) = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    told = {name: event[name] for name in ("kind", "tasks", "samples", "too_hard", "too_easy", "kept")}
    assert told == {"kind": "pool", "tasks": 6, "samples": 48, "too_hard": 1, "too_easy": 1, "kept": 4}


def test_a_measurement_that_was_stopped_goes_on_with_what_it_has_not_asked(make_policy, run, monkeypatch):
    monkeypatch.setattr("thinkery.train.pool.CHUNK", 2)
    policy, judged = make_policy(), []

    def noted(task: Task, completion: Completion) -> float:
        judged.append(task.id)
        run.stopping = stopping
        return odd(task, completion)

    with open_engine(policy.network, policy.tokenizer, EngineConfig(max_batch=64, max_len=64)) as engine:

        def measured() -> Pool:
            return measure(run, PoolConfig(samples=2), engine, TASKS, Rubric(accuracy=noted), SAMPLING, limit=0.2)

        stopping = True
        with pytest.raises(Stopped):
            measured()
        assert judged == ["t0", "t0", "t1", "t1"]
        run.stopping = stopping = False
        pool = measured()
        assert len(judged) == 12
        (run.dir / MEASURED).unlink()
        assert measured().start == pool.start
        assert len(judged) == 24


def test_pass_rates_are_measured_once_however_often_a_run_is_continued(make_policy, tmp_path):
    judged: list[str] = []

    def noted(task: Task, completion: Completion) -> float:
        judged.append(task.id)
        if len(judged) == 13:  # the first attempt after the 6 x 2 of the measurement
            raise KeyboardInterrupt
        return odd(task, completion)

    cfg = Grpo(
        policy=PolicyConfig(lr=1e-2), updates=1, group_size=4, questions_per_update=4, minibatches=1,
        max_tokens=((0, 4),), preflight=0, pool=PoolConfig(samples=2, lowest=0.0, highest=0.9),
    )  # fmt: skip
    for attempt in (1, 2):
        policy = make_policy(lr=1e-2)
        run = Run(tmp_path / "run", "zero", seed=3, attempt=attempt)
        with open_engine(policy.network, policy.tokenizer, EngineConfig(max_batch=32, max_len=64)) as engine:
            if attempt == 1:
                with pytest.raises(KeyboardInterrupt):
                    grpo(run, cfg, policy, engine, TASKS, Rubric(accuracy=noted))
            else:
                grpo(run, cfg, policy, engine, TASKS, Rubric(accuracy=noted))
    assert len(judged) == 6 * 2 + 1 + 4 * 4
    assert "t1" not in judged[13:]


def test_rounds_stay_unique_when_the_tasks_change():
    few, many = [Task(f"t{n}", "?") for n in range(10)], [Task(f"t{n}", "?") for n in range(14)]
    pool, seen = Pool(), []
    for tasks, count in ((few, 5), (many, 9), (many, 12), (few, 25)):
        seen += [(n, task.id) for n, drawn in pool.rounds(PoolConfig(), tasks, count, 3) for task in drawn]
    assert len(seen) == len(set(seen)) == pool.drawn
