"""Real runs made to misbehave: each sets off its alarm, and the same run with the advice followed does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import fmean

import pytest
import tokenizers
import torch
from tests.train.conftest import tiny_network, tiny_tokenizer
from tokenizers import Regex
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from thinkery.chat import THINK_CHAT
from thinkery.core import Completion, Reward, Sampling, Score, Task
from thinkery.engine import EngineConfig, NativeEngine, open_engine
from thinkery.errors import RunFailed
from thinkery.model.tokenizer import Tokenizer
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks_then_answers
from thinkery.rewards.rubric import Part, Rubric
from thinkery.rewards.shaping import unrepeated
from thinkery.rollout import rollouts
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.tasks.sources import Source, load_tasks
from thinkery.train.grpo import Grpo, Judge, grpo
from thinkery.train.optim import PolicyConfig
from thinkery.train.policy import Policy
from thinkery.train.pool import PoolConfig

TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(8)]
SMALL = {"group_size": 8, "questions_per_update": 2, "minibatches": 1, "preflight": 0, "beta": 0.0, "keep_rollouts": 0}
ENGINE = EngineConfig(max_batch=32, max_len=64)
BYTES = 256
"""Tokens below this are single bytes; the one above ends a completion."""


@pytest.fixture
def rings(tmp_path: Path) -> Callable[..., dict[str, dict]]:
    """Train a tiny random model and give its alarms by kind: `rings(lr, rubric, updates=…, **more of Grpo)`."""
    count = iter(range(99))

    def train(
        lr: float,
        rubric: Judge,
        *,
        held_out: Reward | None = None,
        engine: EngineConfig = ENGINE,
        std: float = 0.2,
        tokenizer: Tokenizer | None = None,
        tasks: list[Task] = TASKS,
        **settings,
    ) -> dict[str, dict]:
        run = Run(tmp_path / str(next(count)), "zero", seed=3)
        cfg = Grpo(**{**SMALL, "max_tokens": ((0, 5),), "policy": PolicyConfig(lr=lr), **settings})
        known = tokenizer or tiny_tokenizer()
        network = tiny_network(vocab_size=known.vocab_size)
        network.initialise(torch.Generator().manual_seed(0), std=std)
        policy = Policy(network, known, cfg.policy)
        with open_engine(policy.network, policy.tokenizer, engine) as sampler:
            exam = examining(sampler, held_out) if held_out else None
            grpo(run, cfg, policy, sampler, tasks, rubric, held_out=exam)
        return alarms_of(run)

    return train


def examining(engine: NativeEngine, truth: Reward) -> Callable[[], dict[str, float]]:
    """An exam of 64 attempts, judged by what was really wanted."""

    def exam() -> dict[str, float]:
        groups = rollouts(engine, TASKS, Sampling(max_tokens=5), Rubric(accuracy=truth), samples=8, seed=1)
        return {"eval/exam/pass@1": fmean(reward for group in groups for reward in group.rewards)}

    return exam


def alarms_of(run: Run) -> dict[str, dict]:
    """The first alarm of each kind."""
    path = run.root / "events.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["alarm"]: row for row in reversed(rows) if row["kind"] == "alarm"}


def share(wanted: Callable[[int], bool]) -> Callable[[Task, Completion], float]:
    """A reward for the share of tokens that are wanted."""
    return lambda task, completion: sum(map(wanted, completion.tokens)) / max(1, len(completion.tokens))


low = share(lambda token: token < 128)
high = share(lambda token: 128 <= token < BYTES)


def noise(task: Task, completion: Completion) -> float:
    """A poisoned verifier: a verdict that has nothing to do with the answer."""
    return sha256(repr((task.id, completion.tokens)).encode()).digest()[0] / 255


@pytest.fixture
def rings_on_tiny(tmp_path: Path) -> Callable[..., dict[str, dict]]:
    """One update of the stage `zero` on the embedded base; its alarms by kind: `rings_on_tiny(max_tokens, …)`."""
    count = iter(range(99))

    def train(max_tokens: int, *, template: str = "world-zero", preflight: int = 0) -> dict[str, dict]:
        run = Run(tmp_path / str(next(count)), "zero", seed=3)
        tasks = load_tasks([Source(source="world", kind="chain", limit=8)], seed=1)
        cfg = Grpo(**{**SMALL, "updates": 1, "max_tokens": ((0, max_tokens),), "preflight": preflight})
        rubric = Rubric(accuracy=accuracy, format=Part(thinks_then_answers, weight=0.1))
        reinforce(run, Reinforce(grpo=cfg), fetch(run, Fetch()), tasks, rubric, template=template)
        return alarms_of(run)

    return train


def test_a_learning_rate_far_too_high_makes_losses_that_are_not_finite(rings):
    rung = rings(1e25, Rubric(low=low), updates=2, minibatches=2)["non-finite"]
    assert rung["setting"] == "grpo.policy.lr"
    assert "non-finite" not in rings(1e-3, Rubric(low=low), updates=2, minibatches=2)


def test_too_short_a_length_cuts_every_completion(rings_on_tiny):
    assert rings_on_tiny(1)["truncated"]["setting"] == "grpo.max_tokens"
    assert "truncated" not in rings_on_tiny(64)


def test_a_checkpoint_says_which_alarms_were_ringing(rings, tmp_path):
    rung = rings(1e-3, Rubric(low=low), updates=1, max_tokens=((0, 1),))
    note = json.loads((tmp_path / "0/checkpoints/step-000001/checkpoint.json").read_text())
    assert "truncated" in note["ringing"]
    assert set(note["ringing"]) <= set(rung)


def test_a_broken_template_shows_before_the_first_update(rings_on_tiny):
    with pytest.raises(RunFailed, match="check that the chat template and the format reward agree"):
        rings_on_tiny(64, template="{{ messages[0].content[::-1] }}", preflight=32)
    assert "template" not in [alarm["setting"] for alarm in rings_on_tiny(64, preflight=32).values()]


def test_tasks_that_are_too_hard_have_groups_without_spread(rings):
    def judge(task: Task, completion: Completion) -> float:
        return low(task, completion) if task.id in ("t0", "t1") else 0.0

    rung = rings(1e-3, Rubric(accuracy=judge), updates=6)["no-spread"]
    assert "too hard" in rung["message"]
    assert rung["setting"] == "grpo.pool.samples"
    assert "no-spread" not in rings(1e-3, Rubric(accuracy=judge), updates=6, pool=PoolConfig(samples=8))


def test_a_high_learning_rate_makes_entropy_collapse(rings):
    rung = rings(3e-2, Rubric(few=share(lambda token: token < 8)), updates=40)
    assert rung["entropy"]["setting"] == "grpo.policy.lr"
    assert "entropy" not in rings(1e-3, Rubric(few=share(lambda token: token < 8)), updates=40)


def test_a_poisoned_verifier_makes_the_policy_drift(rings):
    rung = rings(3e-4, Rubric(noise=noise), updates=32, beta=0.001)
    assert rung["drift"]["setting"] == "grpo.beta"
    assert "drift" not in rings(3e-4, Rubric(noise=noise), updates=32, beta=1.0)


def test_a_form_that_pays_more_than_the_answer_is_all_that_is_learnt(rings):
    def rubric(weight: float) -> Rubric:
        return Rubric(accuracy=high, format=Part(low, weight=weight))

    rung = rings(2e-2, rubric(3.0), updates=36)
    assert rung["format-only"]["setting"] == "format_weight"
    assert "format-only" not in rings(2e-2, rubric(0.3), updates=36)


def test_a_reward_that_can_be_hacked_rises_while_held_out_accuracy_falls(rings):
    watched = {"updates": 20, "eval_every": 4, "held_out": high}
    rung = rings(1e-2, Rubric(pleasing=low), **watched)
    assert rung["hacking"]["setting"] == "grpo.updates"
    assert "hacking" not in rings(1e-2, Rubric(pleasing=high), **watched)


def test_a_reward_for_one_word_is_earned_by_repeating_it(rings):
    characters = [chr(0x4E00 + n) for n in range(24)]
    backend = tokenizers.Tokenizer(WordLevel({c: n for n, c in enumerate(["<|end|>", *characters])}, "<|end|>"))
    backend.pre_tokenizer, backend.decoder = Split(Regex(r"[\s\S]"), "isolated"), Fuse()
    backend.add_special_tokens(["<|end|>"])
    one = share(lambda token: token == 7)
    again = {"tokenizer": Tokenizer(backend, eos="<|end|>", template=THINK_CHAT), "updates": 14}
    again["max_tokens"], again["engine"] = ((0, 16),), EngineConfig(max_batch=32, max_len=128)

    rung = rings(3e-2, Rubric(one=one), beta=0.001, **again)
    assert rung["repetition"]["setting"] == "grpo.beta"
    assert "repetition" not in rings(3e-2, Rubric(one=one), beta=1.0, **again)
    assert "repetition" not in rings(3e-2, Rubric(one=one, unrepeated=Part(unrepeated, weight=2.0)), **again)


def test_a_verifier_that_breaks_half_way_leaves_the_peak_behind(rings):
    def poisoned(update: int) -> Rubric:
        return Rubric(low=low if update < 15 else noise)

    rung = rings(1e-2, poisoned, updates=65)
    assert rung["past-peak"]["setting"] == "grpo.updates"
    assert "past-peak" not in rings(1e-2, poisoned, updates=15), "the advice: end before"
    assert "past-peak" not in rings(1e-2, Rubric(low=low), updates=65), "the cause: a verifier that holds"


def test_a_sampler_of_another_format_disagrees_with_the_trainer(rings):
    rough = EngineConfig(max_batch=32, max_len=64, dtype="bfloat16")
    rung = rings(1e-3, Rubric(low=low), updates=2, engine=rough, std=1.0, old_logprobs="sampler")
    assert rung["mismatch"]["setting"] == "grpo.old_logprobs"
    assert "mismatch" not in rings(1e-3, Rubric(low=low), updates=2, engine=rough, std=1.0)
    assert "mismatch" not in rings(1e-3, Rubric(low=low), updates=2, std=1.0, old_logprobs="sampler")


def test_a_verifier_that_breaks_on_some_answers_leaves_them_ungraded(rings):
    def broken(task: Task, completion: Completion) -> Score | float:
        if sum(completion.tokens) % 7 == 0:
            raise ValueError("the verifier's parser gave up")
        return low(task, completion)

    rung = rings(1e-3, Rubric(low=broken), updates=2, max_ungraded=0.5)
    assert rung["ungraded"]["setting"] == "grpo.max_ungraded"
    assert "ungraded" not in rings(1e-3, Rubric(low=low), updates=2, max_ungraded=0.5)
