from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.errors import Stopped, Ungradable
from thinkery.pipeline.progress import headline
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.train.baseline import GroupBaseline, attempts, compared, gains
from thinkery.train.grpo import Grpo, gather, grpo, longest, watched
from thinkery.train.policy import PolicyConfig
from thinkery.train.pool import Pool, PoolConfig
from thinkery.train.ppo import CriticConfig

KILLABLE = Path(__file__).with_name("killable.py")
TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(6)]
SMALL = {
    "policy": PolicyConfig(lr=2e-2), "updates": 3, "group_size": 8, "questions_per_update": 2, "minibatches": 1,
    "max_tokens": ((0, 5),), "preflight": 0,
}  # fmt: skip


def low(task: Task, completion: Completion) -> float:
    """The share of tokens in the lower half of the vocabulary: something a random model can learn quickly."""
    return sum(token < 128 for token in completion.tokens) / 5


def train(run: Run, cfg: Grpo, policy, *, tasks=TASKS, rubric=None, held_out=None, baseline=None, dtype="model"):
    with open_engine(policy.network, policy.tokenizer, EngineConfig(max_batch=32, max_len=64, dtype=dtype)) as engine:
        grpo(run, cfg, policy, engine, tasks, rubric or Rubric(low=low), held_out=held_out, baseline=baseline)
    return policy


def metrics(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]


def untimed(run: Run) -> list[dict]:
    """Its metrics without what depends on the clock."""
    return [
        {name: value for name, value in row.items() if not name.startswith(("time/", "perf/")) and name != "at"}
        for row in metrics(run)
    ]


def stops(run: Run, after: int):
    """`low`, which asks its run to stop when it judges attempt number `after`."""
    judged = itertools.count()

    def reward(task: Task, completion: Completion) -> float:
        run.stopping = run.stopping or next(judged) == after
        return low(task, completion)

    return reward


def events(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]


def group(*rewards: float | None) -> Group:
    task = TASKS[0]
    said = Completion("x", (1, 2), (-1.0, -2.0))
    return Group(task, tuple(Rollout(task, (9, 9), said, {}, r, i) for i, r in enumerate(rewards)))


def test_grpo_learns_what_is_rewarded(make_policy, run):
    cfg = Grpo(**{**SMALL, "updates": 15})
    train(run, cfg, make_policy(lr=2e-2))
    rewards = [row["reward/mean"] for row in metrics(run)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


def test_every_update_reports_its_metrics_and_keeps_its_samples(make_policy, run):
    train(run, Grpo(**SMALL), make_policy())
    rows = metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert list(rows[0])[2] == "completion/truncated"
    expected = {
        "completion/length_mean", "completion/length_max", "thought/length_mean", "answer/length_mean", "reward/mean",
        "reward/std", "reward/low/mean", "reward/ungraded", "group/no_spread", "group/no_spread_right",
        "group/no_spread_wrong", "text/reflection", "text/repetition", "advantage/abs_mean", "policy/kl",
        "policy/entropy", "policy/clip_low", "policy/clip_high", "policy/mismatch_kl", "optim/loss", "optim/grad_norm",
        "optim/lr", "optim/skipped", "time/step", "time/rollout", "time/grading", "time/update", "perf/tokens_per_s",
        "perf/rss", "pool/tasks", "pool/known", "pool/pass_rate", "pool/middle",
    }  # fmt: skip
    assert expected <= set(rows[0])
    with gzip.open(run.dir / "rollouts" / "000002.jsonl.gz") as file:
        kept = [json.loads(line) for line in file]
    assert len(kept) == 16
    assert {row["version"] for row in kept} == {1}
    assert sum(row["advantage"] for row in kept[:8]) == pytest.approx(0.0, abs=1e-9)


def test_waiting_for_the_judge_after_everything_is_sampled_is_timed_apart(make_policy, run):
    def slow(task: Task, completion: Completion) -> float:
        time.sleep(0.01)
        return low(task, completion)

    train(run, Grpo(**{**SMALL, "updates": 4, "minibatches": 2}), make_policy(), rubric=Rubric(slow=slow))
    for row in metrics(run):
        phases = row["time/rollout"], row["time/grading"], row["time/update"]
        assert row["time/step"] == pytest.approx(sum(phases))
        assert row["time/grading"] > 0.04  # half of the last group's 8 attempts at least: two updates share a rollout
    assert ["time/checkpoint" in row for row in metrics(run)] == [False] * 4


def test_on_policy_sampler_and_trainer_agree_and_nothing_is_clipped(make_policy, run):
    train(run, Grpo(**SMALL), make_policy(lr=2e-2))
    for row in metrics(run):
        assert abs(row["policy/mismatch_kl"]) < 1e-6
        assert row["policy/clip_low"] == row["policy/clip_high"] == 0.0
    assert abs(metrics(run)[0]["policy/kl"]) < 1e-6
    assert metrics(run)[-1]["policy/kl"] > 1e-3


def test_one_rollout_serves_several_updates_and_goes_stale(make_policy, run):
    train(run, Grpo(**{**SMALL, "updates": 5, "minibatches": 3}), make_policy(lr=5e-2))
    rows = metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert ["policy/mismatch_kl" in row for row in rows] == [True, False, False, True, False]
    assert rows[2]["policy/clip_low"] + rows[2]["policy/clip_high"] > 0
    with gzip.open(run.dir / "rollouts" / "000003.jsonl.gz") as file:
        assert {json.loads(line)["version"] for line in file} == {0}


def test_the_trainers_own_probabilities_can_replace_the_samplers(make_policy, run, tmp_path):
    steady = {"lr": 2e-2, "eps": 1e-3}  # Adam makes a whole step of a gradient that is nothing but rounding
    ours = train(run, Grpo(**SMALL), make_policy(**steady))
    again = train(Run(tmp_path / "b", "b", seed=3), Grpo(**SMALL, old_logprobs="trainer"), make_policy(**steady))
    for a, b in zip(ours.network.parameters(), again.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-2)


class Rescored(GroupBaseline):
    """Has the attempts scored by the trainer beforehand, in a pass of its own."""

    reads_old = True

    def compare(self, groups):
        assert all(len(attempt.old) == attempt.learnt for group in groups for attempt in group)
        return super().compare(groups)


class Unscored(GroupBaseline):
    """Does not."""

    def compare(self, groups):
        assert not any(len(attempt.old) for group in groups for attempt in group)
        return super().compare(groups)


def test_the_pass_that_learns_gives_the_trainers_probabilities_where_one_update_learns_all(make_policy, tmp_path):
    policies = [
        train(
            Run(tmp_path / kind.__name__, "x", seed=3),
            Grpo(**SMALL, old_logprobs="trainer", correction_cap=1.0),
            make_policy(lr=2e-2, eps=1e-3),
            baseline=kind("group_std"),
            dtype="bfloat16",  # so that the corrections are not all 1
        )
        for kind in (Rescored, Unscored)
    ]
    for a, b in zip(*(policy.network.parameters() for policy in policies), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "corrected"), [("model", [False] * 3), ("bfloat16", [False, True, True])])
def test_the_trainers_probabilities_are_taken_once_the_samplers_are_measured_apart(make_policy, run, dtype, corrected):
    policy = make_policy(lr=1e-3)
    policy.network.initialise(torch.Generator().manual_seed(0), std=1.0)
    with open_engine(policy.network, policy.tokenizer, EngineConfig(max_batch=32, max_len=64, dtype=dtype)) as engine:
        grpo(run, Grpo(**SMALL), policy, engine, TASKS, Rubric(low=low))
    rows = metrics(run)
    assert ["policy/effective_samples" in row for row in rows] == corrected
    assert all((row["policy/mismatch_kl"] > 1e-3) == (dtype == "bfloat16") for row in rows)


def test_leaving_out_groups_without_spread_changes_nothing_without_kl(make_policy, tmp_path):
    def sometimes(task: Task, completion: Completion) -> float:
        return 1.0 if task.id in {"t0", "t1", "t2"} else low(task, completion)

    trained = [
        train(
            Run(tmp_path / str(skip), "x", seed=3),
            Grpo(**{**SMALL, "questions_per_update": 6, "updates": 1}, beta=0.0, skip_no_spread=skip),
            make_policy(lr=1e-3),
            rubric=Rubric(some=sometimes),
        )
        for skip in (False, True)
    ]
    for a, b in zip(*(p.network.parameters() for p in trained), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_an_update_in_which_all_groups_are_flat_moves_nothing(make_policy, run):
    policy = make_policy(lr=1.0)
    before = [p.clone() for p in policy.network.parameters()]
    train(run, Grpo(**SMALL, beta=0.0, skip_no_spread=True), policy, rubric=Rubric(one=lambda task, completion: 1.0))
    assert all(torch.equal(a, b) for a, b in zip(policy.network.parameters(), before, strict=True))
    assert metrics(run)[0]["group/no_spread"] == 1.0


def test_flat_groups_are_replaced_within_the_budget():
    waiting = [group(1, 1), group(0, 1), group(0, 0), group(0, 0), group(1, 0), group(1, 1)]

    def ask(count: int) -> list[Group]:
        return [waiting.pop(0) for _ in range(count)]

    slots = gather(ask, count=3, budget=3)
    assert [slot.group.rewards for slot in slots] == [(1, 1), (0, 1), (1, 0)]
    assert [len(slot.replaced) for slot in slots] == [2, 0, 1]


def test_attempts_without_a_grade_are_left_out_of_their_group():
    mixed = group(1.0, None, 0.0)
    learnt = compared(attempts(mixed), "group_std")
    assert [e.advantage for e in learnt] == [1.0, -1.0]
    assert gains(mixed, learnt) == [1.0, None, -1.0]
    assert gains(mixed, ()) == [None, None, None]


def test_too_many_attempts_without_a_grade_end_the_run_with_the_reason(make_policy, run):
    def broken(task: Task, completion: Completion) -> float:
        raise ValueError("the judge is away")

    with pytest.raises(Ungradable, match=r"(?s)16 of 16 attempts.*broken: ValueError: the judge is away"):
        train(run, Grpo(**SMALL), make_policy(), rubric=Rubric(broken=broken))


def test_the_length_limit_follows_its_schedule():
    cfg = Grpo()
    assert [longest(cfg, update) for update in (0, 8199, 8200)] == [32_768, 32_768, 65_536]


def test_tasks_and_rubric_may_change_on_the_way(make_policy, run):
    late = [Task("late", "z?")]
    train(
        run,
        Grpo(**{**SMALL, "questions_per_update": 1}),
        make_policy(),
        tasks=lambda update: late if update >= 2 else TASKS,
        rubric=lambda update: Rubric(late=low) if update >= 2 else Rubric(early=low),
    )
    names = [[name for name in row if name.startswith("reward/") and name.count("/") == 2] for row in metrics(run)]
    assert names == [["reward/early/mean"], ["reward/early/mean"], ["reward/late/mean"]]


def test_held_out_accuracy_is_measured_before_and_between_updates(make_policy, run):
    train(run, Grpo(**SMALL, eval_every=2), make_policy(), held_out=lambda: {"eval/toy/pass@1": 0.5})
    assert [(row["step"], "eval/toy/pass@1" in row) for row in metrics(run)] == [
        (0, True), (1, False), (2, True), (3, False),
    ]  # fmt: skip


def test_accuracy_before_the_first_update_counts_for_the_alarms_also_after_a_stop(make_policy, run):
    cfg, name = Grpo(**{**SMALL, "updates": 20, "eval_every": 20}), "eval/toy/pass@1"
    with pytest.raises(Stopped):
        train(run, cfg, make_policy(lr=2e-2), rubric=Rubric(low=stops(run, 64)), held_out=lambda: {name: 0.5})
    again = Run(run.dir, run.step, seed=run.seed)
    train(again, cfg, make_policy(lr=2e-2), held_out=lambda: {name: 0.2})
    (rung,) = [event for event in events(run) if event["kind"] == "alarm" and event["alarm"] == "hacking"]
    assert rung["message"].endswith("while held-out accuracy fell to 0.20")


def test_without_a_reference_no_kl_is_recorded_or_shown(make_policy, run):
    train(run, Grpo(**SMALL, beta=0.0), make_policy())
    assert not any("policy/kl" in row for row in metrics(run))
    assert "kl" not in headline(metrics(run)[-1])
    assert "kl" in headline(metrics(run)[-1] | {"policy/kl": 0.0})


def test_useful_groups_are_those_learnt_from_and_not_those_replaced(make_policy, run):
    def rare(task: Task, completion: Completion) -> float:
        return 1.0 if task.id in ("t0", "t1", "t2", "t3") else low(task, completion)

    settings = {**SMALL, "questions_per_update": 2, "updates": 3, "resample": 40}
    train(run, Grpo(**settings), make_policy(), rubric=Rubric(rare=rare))
    rows = metrics(run)
    assert [row["group/useful"] for row in rows] == [1.0] * 3
    assert sum(row["group/no_spread"] for row in rows) > 0
    assert "no-spread" not in [event.get("alarm") for event in events(run)]


def test_an_alarm_rings_once_while_its_reason_lasts(make_policy, run):
    train(run, Grpo(**SMALL), make_policy(), rubric=Rubric(one=lambda task, completion: 1.0))
    rung = [event["alarm"] for event in events(run) if event["kind"] == "alarm"]
    assert rung == ["truncated", "no-spread"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"advantage": "gae", "critic": CriticConfig(lr=1e-2), "beta": 0.01, "reference_every": 1},
        {"pool": PoolConfig(samples=2, lowest=0.0, highest=1.0, order="difficulty")},
    ],
    ids=["grpo", "ppo", "pool"],
)
def test_a_run_asked_to_stop_spends_its_rollout_and_continues_later(settings, make_policy, tmp_path):
    cfg = Grpo(**{**SMALL, "updates": 4, "minibatches": 2}, **settings)
    steady = train(Run(tmp_path / "steady", "zero", seed=3), cfg, make_policy(lr=2e-2))
    stopping = Run(tmp_path / "stopped", "zero", seed=3)
    with pytest.raises(Stopped):
        train(stopping, cfg, make_policy(lr=2e-2), rubric=Rubric(low=stops(stopping, after=2 * len(TASKS) + 9)))
    assert [row["step"] for row in metrics(stopping)] == [1, 2]
    resumed = train(Run(tmp_path / "stopped", "zero", seed=3, attempt=2), cfg, make_policy(seed=4, lr=2e-2))
    assert [row["step"] for row in metrics(stopping)] == [1, 2, 3, 4]
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.network.parameters(), steady.network.parameters(), strict=True)
    )
    assert untimed(stopping) == untimed(Run(tmp_path / "steady", "zero"))


def test_a_budget_of_flops_ends_training_with_the_rollout_that_passes_it(make_policy, tmp_path):
    whole, short = Run(tmp_path / "whole", "zero"), Run(tmp_path / "short", "zero")
    cfg = Grpo(**{**SMALL, "updates": 6, "minibatches": 2})
    train(whole, cfg, make_policy())
    spent = [row["perf/flops"] for row in metrics(whole)]
    budget = cfg.model_copy(update={"flops": sum(spent[:3])})
    train(short, budget, make_policy())
    assert [row["perf/flops"] for row in metrics(short)] == spent[:4]  # rollouts serve two updates
    policy = train(Run(tmp_path / "short", "zero", attempt=2), budget, make_policy())
    assert policy.updates == 4
    assert len(metrics(short)) == 4, "a finished stage that is run again had learnt more"


def test_a_killed_run_continues_bit_for_bit(folder, tmp_path):
    def start(name: str, *pause: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, KILLABLE, folder, tmp_path / name, tmp_path / f"{name}.pt", *pause])

    steady = start("steady")
    victim = start("victim", "0.005")
    until = time.monotonic() + 120
    while not list((tmp_path / "victim").glob("checkpoints/step-*")):
        assert victim.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < until, "no checkpoint appeared"
        time.sleep(0.02)
    time.sleep(0.3)  # into the next rollout
    victim.kill()
    victim.wait()
    assert not (tmp_path / "victim.pt").exists()
    assert start("victim").wait() == 0
    assert steady.wait() == 0

    weights = [torch.load(tmp_path / f"{name}.pt") for name in ("steady", "victim")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert untimed(Run(tmp_path / "steady", "zero")) == untimed(Run(tmp_path / "victim", "zero"))


def test_a_score_of_none_is_not_counted_as_zero():
    task = TASKS[0]
    said = Completion("x", (1,), (-1.0,))
    right = Rollout(task, (9,), said, {"a": Score(1.0)}, 1.0, 0)
    unknown = Rollout(task, (9,), said, {"a": Score(None, "no")}, None, 1)
    judged = Group(task, (right, unknown))
    assert [e.advantage for e in compared(attempts(judged), "group_mean")] == [0.0]


def test_replacements_count_with_their_rollout_among_what_has_no_grade():
    def group(id, *rewards):
        task, said = Task(id, "?"), Completion("x", (2,), (-1.0,))
        return Group(
            task, tuple(Rollout(task, (1,), said, {"a": Score(r, "late")}, r, i) for i, r in enumerate(rewards))
        )

    def ask(count):
        if count == 1:
            return [group("again", *[None] * 4, *[1.0, 0.0] * 6)]
        return [group("flat", *[0.0] * 16), *(group(f"t{i}", *[1.0, 0.0] * 8) for i in range(count - 1))]

    assert len(gather(watched(ask, Grpo(resample=8), Pool()), 32, 8)) == 32
    with pytest.raises(Ungradable):
        gather(watched(lambda count: [ask(1)[0]] * count, Grpo(resample=8), Pool()), 4, 8)
