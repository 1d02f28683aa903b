"""Rollouts sampled while earlier ones are learnt: how old they are, that runs stay reproducible, and resume."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from tests.engine.copying import SETTINGS, copying
from tests.vllms import vllm_python

from thinkery.core import Completion, Task
from thinkery.engine import EngineConfig
from thinkery.engine.pool import open_engines
from thinkery.engine.vllm import VllmConfig, open_vllm
from thinkery.errors import ConfigError, Stopped
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.tasks.world import ZERO_TEMPLATE
from thinkery.train.grpo import Grpo, grpo
from thinkery.train.policy import Policy, PolicyConfig

TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(6)]
LOOP = Grpo(
    policy=PolicyConfig(lr=2e-2), updates=4, group_size=8, questions_per_update=2, minibatches=1, max_tokens=((0, 5),),
    preflight=0, old_logprobs="trainer",
)  # fmt: skip
HERE = EngineConfig(dtype="float32", max_batch=32, max_len=64, deterministic=True)
THERE = HERE.model_copy(update={"processes": 1})


FORMATS = pytest.mark.parametrize("formats", [{}, {"weights": "bfloat16", "dtype": "bfloat16"}], ids=["wide", "narrow"])
"""Formats that weights learn in."""


def low(task: Task, completion: Completion) -> float:
    """The share of tokens in the lower half of the vocabulary."""
    return sum(token < 128 for token in completion.tokens) / 5


def train(run: Run, policy, *, engine: EngineConfig | VllmConfig = THERE, reward=low, **settings):
    open_it = open_vllm if isinstance(engine, VllmConfig) else open_engines
    with open_it(policy.network, policy.tokenizer, engine) as sampler:
        grpo(run, LOOP.model_copy(update=settings), policy, sampler, TASKS, Rubric(low=reward))
    return policy


def metrics(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]


def samples(run: Run, update: int) -> list[dict]:
    with gzip.open(run.dir / "rollouts" / f"{update:06d}.jsonl.gz") as file:
        return [json.loads(line) for line in file]


def asked(run: Run, updates: int) -> list[str]:
    """The tasks of each update, every one once for its group."""
    return [row["task"] for update in range(1, updates + 1) for row in samples(run, update)[:: LOOP.group_size]]


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True))


@FORMATS
def test_another_process_in_turn_trains_bit_for_bit_as_this_one(make_policy, tmp_path, formats):
    here = train(Run(tmp_path / "a", "zero", seed=3), make_policy(lr=2e-2, **formats), engine=HERE)
    there = train(Run(tmp_path / "b", "zero", seed=3), make_policy(lr=2e-2, **formats))
    assert same_weights(here, there)
    assert [row["policy/staleness"] for row in metrics(Run(tmp_path / "b", "zero"))] == [0.0] * 4


def test_one_rollout_ahead_is_one_rollout_old_and_the_run_is_reproducible(make_policy, tmp_path):
    first, second = (Run(tmp_path / name, "zero", seed=3) for name in ("a", "b"))
    policies = [train(run, make_policy(lr=2e-2), ahead=1) for run in (first, second)]
    assert same_weights(*policies)
    are_one_rollout_old(first)
    rows = metrics(first)
    for row in rows:
        own = row["time/waiting"] + row.get("time/delivery", 0.0) + row["time/update"]
        assert row["time/step"] == pytest.approx(own)
        assert row["time/rollout"] > 0
    assert "policy/mismatch_kl" not in rows[0]


@FORMATS
def test_servers_of_vllm_sample_ahead(make_policy, tmp_path, formats):
    policy, run = make_policy(lr=2e-2, **formats), Run(tmp_path / "run", "zero", seed=3)
    with copying(policy.network, policy.tokenizer, tmp_path / "model", 2) as servers:
        found = {"url": tuple(one.url for one in servers), "tolerance": 0.05 if formats else 1e-3}
        train(run, policy, engine=SETTINGS.model_copy(update=found), ahead=1)
    are_one_rollout_old(run, apart=1e-2 if formats else 1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@FORMATS
def test_a_server_of_vllm_itself_samples_ahead(tmp_path, formats):
    network, tokenizer = load_model(locate("tiny"))
    policy = Policy(network, tokenizer.with_template(ZERO_TEMPLATE), PolicyConfig(lr=1e-3, **formats))
    run = Run(tmp_path / "run", "zero", seed=3)
    sampled = {"dtype": "bfloat16", "tolerance": 0.05} if formats else {"dtype": "float32", "tolerance": 1e-3}
    server = VllmConfig(python=vllm_python(), max_len=256, max_batch=16, kv_memory=0.25, **sampled)
    train(run, policy, engine=server, ahead=1)
    are_one_rollout_old(run, apart=1e-2 if formats else 1e-4)


def are_one_rollout_old(run: Run, apart: float = 1e-4) -> None:
    """Each rollout of the run was sampled while the one before it was learnt, from weights that had arrived; by how
    much sampler and trainer may lie apart in a share of samples."""
    rows = metrics(run)
    assert [row["policy/staleness"] for row in rows] == [0.0, 1.0, 1.0, 1.0]
    assert [{row["version"] for row in samples(run, update)} for update in (1, 2, 3, 4)] == [{0}, {0}, {1}, {2}]
    assert rows[0]["policy/effective_samples"] == pytest.approx(1.0, abs=apart)
    assert 0.1 < rows[2]["policy/effective_samples"] < 0.9999


def test_two_rollouts_ahead_serve_several_updates_each(make_policy, run):
    train(run, make_policy(lr=2e-2), ahead=2, minibatches=2, updates=8)
    assert [row["policy/staleness"] for row in metrics(run)] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 4.0, 5.0]


def test_what_was_sampled_ahead_and_not_learnt_is_asked_again_and_recorded_once(make_policy, tmp_path):
    def stops(task: Task, completion: Completion) -> float:
        stopped.stopping = stopped.stopping or completion.version == 1
        return low(task, completion)

    steady, stopped = Run(tmp_path / "steady", "zero", seed=3), Run(tmp_path / "stopped", "zero", seed=3)
    train(steady, make_policy(lr=2e-2), engine=HERE, updates=6)
    with pytest.raises(Stopped):
        train(stopped, make_policy(lr=2e-2), reward=stops, ahead=1, updates=6)
    learnt = len(metrics(stopped))
    assert 2 <= learnt < 6
    again = Run(tmp_path / "stopped", "zero", seed=3, attempt=2)
    train(again, make_policy(seed=4, lr=2e-2), ahead=1, updates=6)
    assert [row["step"] for row in metrics(again)] == [1, 2, 3, 4, 5, 6]
    assert metrics(again)[learnt]["policy/staleness"] == 0.0
    assert asked(again, 6) == asked(steady, 6)


def test_the_engine_that_samples_from_the_learning_tensors_cannot_sample_ahead(make_policy, run):
    with pytest.raises(ConfigError, match=r"grpo\.ahead: .*cannot sample ahead"):
        train(run, make_policy(), engine=HERE, ahead=1)


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_budget_ends_with_the_rollout_that_passes_it_though_others_are_sampled(make_policy, run, ahead):
    train(run, make_policy(lr=2e-2), ahead=ahead, updates=6, flops=1.0)
    assert [row["step"] for row in metrics(run)] == [1]
