from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from thinkery.train.alarms import Alarm, alarms
from thinkery.train.baseline import GroupBaseline
from thinkery.train.grpo import EXAMS, REMEMBERED, Grpo, answered, remembered


def ring(history: list[dict[str, float]]) -> list[str]:
    return [alarm.kind for alarm in alarms(history)]


def rows(count: int, **columns) -> list[dict[str, float]]:
    """A history whose columns are numbers or functions of the update."""
    named = {name.replace("__", "/"): value for name, value in columns.items()}
    return [{n: v(i) if callable(v) else v for n, v in named.items()} for i in range(count)]


def rung(count: int, row: Callable[[int], dict[str, float]]) -> dict[str, int]:
    """The update at which each kind rings first, in a training that reports these rows."""
    history: list[dict[str, float]] = []
    first: dict[str, int] = {}
    for update in range(1, count + 1):
        history = remembered([*history, {"step": float(update), **row(update)}])
        for kind in ring(history):
            first.setdefault(kind, update)
    return first


def test_a_healthy_history_rings_nothing():
    healthy = rows(
        60, optim__loss=0.01, completion__truncated=0.05, group__no_spread=0.3, policy__entropy=lambda i: 1.0 - i / 100,
        policy__kl=lambda i: i / 1000, reward__mean=lambda i: i / 60, reward__format__mean=0.99,
        reward__accuracy__mean=lambda i: i / 60, text__repetition=0.02, policy__mismatch_kl=1e-7,
    )  # fmt: skip
    assert alarms(healthy) == []
    assert alarms([]) == []


def test_a_skipped_or_not_finite_update():
    assert ring([{"optim/loss": 0.1, "optim/skipped": 1.0}]) == ["non-finite"]
    assert ring([{"optim/loss": math.nan}]) == ["non-finite"]


def test_truncation_rings_at_once_when_total_and_after_three_updates_when_half():
    assert ring(rows(1, completion__truncated=1.0)) == ["truncated"]
    assert ring(rows(2, completion__truncated=0.6)) == []
    seen, advice = "60% of completions are cut at the length limit", "allow twice the length, or more until few are cut"
    assert alarms(rows(3, completion__truncated=0.6)) == [Alarm("truncated", seen, "grpo.max_tokens", advice)]


def test_groups_without_spread_say_whether_the_tasks_are_too_easy_or_too_hard():
    hard, easy = (
        rows(3, group__no_spread=0.9, group__no_spread_right=0.1),
        rows(3, group__no_spread=0.9, group__no_spread_right=0.8),
    )
    assert "too hard" in alarms(hard)[0].message
    assert "too easy" in alarms(easy)[0].message
    assert ring(rows(3, group__no_spread=0.79)) == []


def test_entropy_under_a_fifth_of_its_start():
    assert ring(rows(40, policy__entropy=lambda i: 1.0 if i < 20 else 0.19)) == ["entropy"]
    assert ring(rows(40, policy__entropy=lambda i: 1.0 if i < 20 else 0.21)) == []


def test_kl_that_rises_while_the_reward_stands_still():
    assert ring(rows(30, policy__kl=lambda i: 0.01 * i, reward__mean=0.4)) == ["drift"]
    assert ring(rows(30, policy__kl=lambda i: 0.01 * i, reward__mean=lambda i: 0.4 + i / 100)) == []


def test_format_learnt_without_accuracy():
    assert ring(rows(30, reward__format__mean=0.97, reward__accuracy__mean=0.1)) == ["format-only"]
    assert ring(rows(30, reward__format__mean=0.97, reward__accuracy__mean=lambda i: 0.1 + i / 100)) == []


def test_a_part_that_rises_while_held_out_accuracy_falls_is_hacking():
    history = rows(40, reward__helpful__mean=lambda i: i / 40, reward__format__mean=0.5)
    history[9]["eval/toy/pass@1"], history[39]["eval/toy/pass@1"] = 0.6, 0.4
    (alarm,) = alarms(history)
    assert (alarm.kind, alarm.setting) == ("hacking", "grpo.updates")
    assert alarm.advice == "end 30 updates earlier, where accuracy was 0.60, or repair what helpful pays for"
    history[39]["eval/toy/pass@1"] = 0.62
    assert alarms(history) == []


def test_repetition():
    assert ring(rows(3, text__repetition=0.4)) == ["repetition"]
    assert ring(rows(3, text__repetition=0.1)) == []


def test_a_reward_whose_peak_is_long_past():
    assert ring(rows(100, reward__mean=lambda i: i / 50 if i < 50 else 0.98 - (i - 50) / 100)) == ["past-peak"]
    assert ring(rows(100, reward__mean=lambda i: i / 100)) == []


def test_sampler_and_trainer_that_disagree():
    assert ring([{"policy/mismatch_kl": 0.02}]) == ["mismatch"]
    assert ring([{"policy/mismatch_kl": 0.001}]) == []


def test_attempts_that_could_not_be_graded():
    assert ring([{"reward/ungraded": 0.1}]) == ["ungraded"]
    assert ring([{"reward/ungraded": 0.01}]) == []


def test_hacking_rings_for_ten_points_whatever_was_measured_between():
    def after(measured: dict[int, float]) -> list[str]:
        history = rows(40, reward__helpful__mean=lambda i: i / 40)
        for update, accuracy in measured.items():
            history[update]["eval/toy/pass@1"] = accuracy
        return ring(history)

    for between, now in ((0.79, 0.5), (0.8, 0.5), (0.76, 0.76)):
        assert after({9: 0.8, 19: between, 39: now}) == ["hacking"]
    assert after({9: 0.8, 19: 0.79, 39: 0.75}) == []


def test_entropy_is_compared_with_the_start_however_long_ago_that_is():
    history: list[dict[str, float]] = []
    for update in range(4000):
        history = remembered([*history, {"policy/entropy": 0.5 ** (update / 400)}])
    assert len(history) == REMEMBERED
    assert ring(history) == ["entropy"]


def test_a_slow_gain_at_the_papers_pace_is_not_the_form_alone():
    history: list[dict[str, float]] = []
    rang = 0
    for update in range(2000):  # 15.6 to 71 % in 10,400
        accuracy = 0.156 + 0.554 * update / 10_400
        history = remembered([*history, {"reward/format/mean": 1.0, "reward/accuracy/mean": accuracy}])
        rang += bool(alarms(history))
    assert rang < 250


def test_updates_that_are_not_remembered_count_too():
    history: list[dict[str, float]] = []
    for update in range(1000):
        row = {"step": float(update), "reward/mean": 1.0 if update < 10 else 0.1 + update / 1e6}
        history = remembered([*history, row])
    history[0]["reward/mean"] = 0.0
    (alarm,) = alarms([*history[:8], *({**row, "reward/mean": 2.0} for row in history[8:18]), *history[18:]])
    assert (alarm.kind, alarm.advice.split(",")[0]) == ("past-peak", "end 382 updates earlier")
    history = remembered([{"step": float(i), "reward/helpful/mean": i / 1000} for i in range(1000)])
    history[9]["eval/toy/pass@1"], history[-1]["eval/toy/pass@1"] = 0.6, 0.4
    (alarm,) = alarms(history)
    assert alarm.advice.startswith("end 990 updates earlier")


def test_groups_that_others_replaced_are_not_too_hard_when_enough_useful_ones_were_found():
    sampled = {"group__no_spread": 0.9, "group__no_spread_right": 0.1}
    assert ring(rows(3, **sampled, group__useful=0.75)) == []
    (alarm,) = alarms(rows(3, **sampled, group__useful=0.125))
    assert (alarm.kind, alarm.message) == ("no-spread", "88% of groups have equal rewards: the tasks are too hard")


def test_kl_that_rises_slowly_is_compared_with_where_the_reward_was_at_its_best():
    straight = rung(1000, lambda i: {"reward/mean": min(i, 100) / 200, "policy/kl": 0.003 * i})
    # 0.9345 in updates 307 to 316; 0.4665 in 151 to 160, a quarter of the way from 100, where the reward is at its best
    assert straight == {"drift": 316}
    thirtyfold = rung(1000, lambda i: {"reward/mean": min(i, 100) / 200, "policy/kl": 0.1 * 30 ** (i / 1000)})
    assert 370 < thirtyfold["drift"] < 390  # it doubles in 204 updates, here since 170


def test_kl_that_doubles_in_a_thousand_updates_rings_where_exams_are_remembered():
    draw = random.Random(0)

    def row(i: int) -> dict[str, float]:
        exam = {"eval/exam/pass@1": 0.5} if i % 80 == 0 else {}
        return {"reward/mean": 0.5 + draw.gauss(0, 0.02), "policy/kl": 0.1 * 2 ** (i / 1000), **exam}

    assert rung(4000, row)["drift"] > 1000


def test_kl_that_rises_with_the_reward_is_learning():
    assert rung(1000, lambda i: {"reward/mean": i / (i + 100), "policy/kl": 0.001 * i}) == {}
    draw = random.Random(0)
    assert "drift" not in rung(300, lambda i: {"reward/mean": i / 300 + draw.gauss(0, 0.03), "policy/kl": 0.001 * i})


@pytest.mark.parametrize(("every", "seen"), [(20, 2020), (390, 2340), (400, 2400), (1000, 3000)])
def test_a_fall_is_seen_however_rarely_held_out_accuracy_is_measured(every: int, seen: int):
    def row(update: int) -> dict[str, float]:
        measured = {"eval/exam/pass@1": 0.8 if update <= 2000 else 0.1} if update % every == 0 else {}
        return {"reward/helpful/mean": update / 800, **measured}

    assert rung(3000, row)["hacking"] == seen


def test_a_bounded_number_of_exams_is_remembered():
    history: list[dict[str, float]] = []
    for update in range(1000):
        history = remembered([*history, {"step": float(update), "eval/exam/pass@1": 0.5}])
    assert len(history) == REMEMBERED + EXAMS


def test_accuracy_that_falls_from_before_the_first_update_is_hacking():
    history = [{"step": 0.0, "eval/exam/pass@1": 0.8}]
    for update in range(1, 61):
        measured = {"eval/exam/pass@1": 0.3} if update % 20 == 0 else {}
        history = remembered([*history, {"step": float(update), "reward/helpful/mean": update / 60, **measured}])
    (alarm,) = alarms(history)
    assert alarm.advice == "end 60 updates earlier, where accuracy was 0.80, or repair what helpful pays for"


def test_a_sampler_that_is_far_apart_rings_whoever_corrects_it():
    corrected, history = Grpo(old_logprobs="trainer"), [{"policy/mismatch_kl": 0.02}]
    assert ring(history) == ["mismatch"]
    assert "mismatch" in answered(corrected, GroupBaseline("group_std"))
    far = [{"policy/mismatch_kl": 0.2, "policy/effective_samples": 0.9}, {}]  # not measured in every update
    (alarm,) = alarms(far)
    assert (alarm.kind, alarm.message) == ("sampler-apart", "sampler and trainer differ by 0.2 nats for a token")
    assert alarm.kind not in answered(corrected, GroupBaseline("group_std"))
    assert ring([{"policy/mismatch_kl": 1e-3, "policy/effective_samples": 0.4}]) == ["sampler-apart"]
    assert ring([{"policy/mismatch_kl": 1e-3, "policy/effective_samples": 0.6}]) == []


@pytest.mark.parametrize("seed", range(4))
def test_what_only_wanders_rings_at_most_by_chance(seed: int):
    """4,000 updates of learning that never falls, with exams of a hundred questions: 5 points of noise each."""
    draw, history, rung_at = random.Random(seed), [], []
    for update in range(4000):
        level, row = 0.3 + update / 8000, {"step": float(update)}
        row |= {name: level + draw.gauss(0, 0.02) for name in ("reward/mean", "reward/accuracy/mean")}
        exam = {"eval/exam/pass@1": level + draw.gauss(0, 0.05)} if update % 80 == 0 else {}
        history = remembered([*history, row | exam])
        rung_at += [update] if {"hacking", "past-peak"} & set(ring(history)) else []
    stretches = [at for before, at in zip([-100, *rung_at], rung_at, strict=False) if at - before > 50]
    assert len(stretches) <= 3


def test_kl_is_compared_since_the_reference_was_renewed():
    def row(update: int, last: float) -> dict[str, float]:
        far = 0.02 if update < 800 else last  # what each 400 updates end at, after 100
        return {"reward/mean": min(update, 100) / 100, "policy/kl": far * min(update % 400, 100) / 100}

    assert rung(1200, lambda i: row(i, 0.03)) == {}  # as far as from the one before, and half as far again
    # Three times as far; 0.04 is passed by the mean over ten updates when the last is the 72nd.
    assert rung(1200, lambda i: row(i, 0.06)) == {"drift": 872}
