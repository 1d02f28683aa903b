from __future__ import annotations

import math

from thinkery.train.alarms import Alarm, alarms
from thinkery.train.grpo import REMEMBERED, remembered


def ring(history: list[dict[str, float]]) -> list[str]:
    return [alarm.kind for alarm in alarms(history)]


def rows(count: int, **columns) -> list[dict[str, float]]:
    """A history whose columns are numbers or functions of the update."""
    named = {name.replace("__", "/"): value for name, value in columns.items()}
    return [{n: v(i) if callable(v) else v for n, v in named.items()} for i in range(count)]


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
