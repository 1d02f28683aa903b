from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from thinkery.core import Completion, Group, Rollout, Sampling, Score, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.errors import RunFailed
from thinkery.pipeline.progress import Progress
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.train.preflight import look, preflight, refuse, warnings

SAMPLING = Sampling(max_tokens=8)


def group(*right: float, finish="stop", form=1.0) -> Group:
    task = Task("t", "?")
    said = Completion("x", (1,), (-1.0,), finish)
    return Group(
        task,
        tuple(
            Rollout(task, (9,), said, {"accuracy": Score(r), "format": Score(form)}, r + form, i)
            for i, r in enumerate(right)
        ),
    )


def test_the_expected_share_of_flat_groups_follows_from_each_tasks_chance():
    found = look([group(1, 1, 1, 1), group(1, 0, 1, 0)], group_size=4)
    assert found.completions == 8
    assert found.accuracy == 0.75
    assert found.no_spread == pytest.approx((1 + 2 * 0.5**4) / 2)
    assert not found.identical
    assert found.parts == {"accuracy": 0.75, "format": 1.0}


def test_groups_that_differ_in_form_alone_do_not_count_as_flat():
    wrong = group(0, 0, 0, 0)
    scores = [{"accuracy": Score(0.0), "format": Score(form)} for form in (0.0, 1.0, 1.0, 1.0)]
    attempts = zip(wrong.rollouts, scores, strict=True)
    loose = Group(wrong.task, tuple(replace(r, scores=s, reward=0.1 * (s["format"].value or 0)) for r, s in attempts))
    assert look([wrong], group_size=4).no_spread == 1.0
    assert look([loose], group_size=4).no_spread == pytest.approx(0.25**4 + 0.75**4)
    assert look([loose], group_size=4).accuracy == 0.0


def test_single_attempts_are_no_groups_that_could_be_flat():
    assert look([group(0, 0, 0, 0)], group_size=1).no_spread == 0.0


def test_completions_that_are_nearly_all_cut_are_refused_with_the_setting():
    found = look([group(0, 1, 0, 1, finish="length")], group_size=4)
    with pytest.raises(RunFailed, match=r"(?s)100% of 4 completions are cut.*max_tokens 8.*grpo\.max_tokens"):
        refuse(found, SAMPLING)


def test_a_form_that_nobody_has_is_refused_when_all_rewards_are_equal():
    with pytest.raises(RunFailed, match=r"(?s)none of 2 completions has the form.*template"):
        refuse(look([group(0, 0, form=0.0)], group_size=4), SAMPLING)
    refuse(look([group(0, 1, form=0.0)], group_size=4), SAMPLING)


def test_poor_chances_are_warned_about():
    settings = [setting for setting, _, _ in warnings(look([group(0, 0, 0, 0)], group_size=16))]
    assert settings == ["grpo.pool.samples", "grpo.pool.samples"]
    assert warnings(look([group(0, 1, 0, 1)], group_size=16)) == []


def test_real_samples_are_taken_and_their_findings_noted_and_said(make_policy, tmp_path: Path):
    policy, shown = make_policy(), StringIO()
    run = Run(tmp_path, "x", seed=3, progress=Progress(shown))
    tasks = [Task(f"t{n}", f"{n}?") for n in range(40)]
    rubric = Rubric(accuracy=lambda task, completion: float(completion.tokens[0] < 128))
    with (
        open_engine(policy.network, policy.tokenizer, EngineConfig(max_batch=64, max_len=64)) as engine,
        pytest.raises(RunFailed, match="are cut"),
    ):
        preflight(run, engine, tasks, rubric, SAMPLING, group_size=4)
    (event,) = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    assert (event["kind"], event["completions"]) == ("preflight", 64)
    assert event["truncated"] > 0.9
    assert re.fullmatch(
        r"preflight: of 64 completions \d+% cut, \d+% right; about \d+% of groups flat\n", shown.getvalue()
    )


def test_the_line_that_is_said_puts_truncation_first():
    found = look([group(1, 1, 1, 0), group(0, 0, 0, 0, finish="length")], group_size=4)
    assert found.line == "preflight: of 8 completions 50% cut, 38% right; about 66% of groups flat"
