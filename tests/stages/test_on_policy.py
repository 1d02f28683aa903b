"""The stage of on-policy distillation, on the embedded models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.engine.asking import one_thread

from thinkery.engine import EngineConfig, MembersConfig
from thinkery.engine.vllm import VllmConfig
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.files import read_rows
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import counted_settings
from thinkery.stages.collect import Collect, collect
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.on_policy import OnPolicyDistill, OnPolicyGrpo, on_policy_distill
from thinkery.tasks.sources import Source
from thinkery.train.policy import Policy, PolicyConfig

LOOP = OnPolicyGrpo(updates=2, questions_per_update=4, max_tokens=((0, 24),), policy=PolicyConfig(lr=1e-4))


@pytest.fixture
def base(tmp_path: Path) -> Model:
    return fetch(Run(tmp_path / "base", "base", seed=1), Fetch())


@pytest.fixture
def tasks(tmp_path: Path) -> Dataset:
    return collect(Run(tmp_path / "tasks", "tasks", seed=1), Collect(sources=(Source(source="world", limit=8),)))


def distilled_with(folder: Path, base: Model, tasks: Dataset, **settings: Any) -> tuple[Any, list[float]]:
    """The weights that the student of the same name as its teacher has in the end, and its reverse KL by update."""
    run = Run(folder, "student", seed=1)
    with one_thread():
        model = on_policy_distill(run, OnPolicyDistill(grpo=LOOP, **settings), base, base, tasks)
    return model.manifest["content"], [row["distill/reverse_kl"] for row in run.curves()]


def test_a_student_that_is_its_teacher_has_nothing_to_learn_at_first_and_is_saved(tmp_path, base, tasks):
    distilled = on_policy_distill(
        Run(tmp_path / "student", "student", seed=1), OnPolicyDistill(grpo=LOOP), base, base, tasks
    )
    rows = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["distill/reverse_kl"] == pytest.approx(0.0, abs=1e-5)
    assert "reward/accuracy/mean" in rows[0]
    assert (distilled.folder / "model.safetensors").exists()


def test_a_teacher_in_a_process_of_its_own_teaches_to_the_same_bits_and_is_not_loaded_here(
    tmp_path, base, tasks, monkeypatch
):
    here = distilled_with(tmp_path / "here", base, tasks)
    monkeypatch.delattr(Policy, "frozen")
    assert distilled_with(tmp_path / "there", base, tasks, teacher_engine=MembersConfig(processes=1)) == here


@pytest.mark.slow
@pytest.mark.flaky(reruns=2)
def test_a_cluster_has_room_for_the_teacher_and_the_students_engines(tmp_path, base, tasks, monkeypatch):
    pytest.importorskip("ray", reason="thinkery[ray] is not installed")
    here = distilled_with(tmp_path / "here", base, tasks)
    monkeypatch.delattr(Policy, "frozen")
    places = {
        "teacher_engine": MembersConfig(processes=1, ray="local"),
        "engine": EngineConfig(processes=1, ray="local"),
    }
    assert distilled_with(tmp_path / "there", base, tasks, **places) == here


def test_where_the_teacher_computes_is_in_no_key_but_that_vllm_judges_is():
    plain = counted_settings(OnPolicyDistill())
    assert "teacher_engine" not in plain
    assert "teacher_vllm" not in plain
    assert counted_settings(OnPolicyDistill(teacher_engine=MembersConfig(processes=2))) == plain
    assert counted_settings(OnPolicyDistill(teacher_vllm=VllmConfig(python="python"))) != plain


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"teacher_vllm": {}}, "a teacher's vLLM is a server"),
        ({"teacher_vllm": {"url": ("http://10.0.0.2:8000",)}, "teacher_engine": {"ray": "auto"}}, "leave out one"),
        ({"teacher_vllm": {"python": "python"}, "grpo": {"temperature": 0.7}}, "temperature 1 alone.*is 0.7"),
        ({"teacher_engine": {"ray": "auto"}, "engine": {"ray": "local"}}, "a run is in one Ray cluster"),
        ({"teacher_engine": {"ray": "auto"}, "engine": {"ray": "auto", "processes": 2}}, "say how many actors"),
    ],
)
def test_a_teachers_settings_that_contradict_each_other_are_refused(settings, wrong):
    with pytest.raises(ValidationError, match=wrong):
        OnPolicyDistill.model_validate(settings)


def test_questions_are_put_in_the_words_of_templates(tmp_path, base, tasks):
    run = Run(tmp_path / "student", "student", seed=1)
    on_policy_distill(run, OnPolicyDistill(grpo=LOOP, templates=("Well: {question} Go!",)), base, base, tasks)
    asked = {row["prompt"] for n in (1, 2) for row in read_rows(run.dir / f"rollouts/{n:06d}.jsonl.gz")}
    assert len(asked) > 4
    assert all(text.startswith("Well: ") and text.endswith(" Go!") for text in asked)


def test_equal_rewards_ring_no_alarm_where_a_teacher_gives_the_advantages(tmp_path, base, tasks):
    run = Run(tmp_path / "student", "student", seed=1)
    cfg = LOOP.model_copy(update={"group_size": 2, "updates": 3})
    on_policy_distill(run, OnPolicyDistill(grpo=cfg), base, base, tasks)
    assert [row["group/no_spread"] for row in read_rows(run.dir / "metrics.jsonl")] == [1.0] * 3
    rung = [row["alarm"] for row in read_rows(run.dir / "events.jsonl") if row["kind"] == "alarm"]
    assert "no-spread" not in rung
