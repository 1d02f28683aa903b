"""The stage of on-policy distillation, on the embedded models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thinkery.pipeline.run import Run
from thinkery.stages.collect import Collect, collect
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.on_policy import OnPolicyDistill, OnPolicyGrpo, on_policy_distill
from thinkery.tasks.sources import Source
from thinkery.train.policy import PolicyConfig

LOOP = OnPolicyGrpo(updates=2, questions_per_update=4, max_tokens=((0, 24),), policy=PolicyConfig(lr=1e-4))


def test_a_student_that_is_its_teacher_has_nothing_to_learn_at_first_and_is_saved(tmp_path: Path):
    def run(name: str) -> Run:
        return Run(tmp_path / name, name, seed=1)

    base = fetch(run("base"), Fetch())
    tasks = collect(run("tasks"), Collect(sources=(Source(source="world", limit=8),)))
    distilled = on_policy_distill(run("student"), OnPolicyDistill(grpo=LOOP), base, base, tasks)
    rows = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["distill/reverse_kl"] == pytest.approx(0.0, abs=1e-5)
    assert "reward/accuracy/mean" in rows[0]
    assert (distilled.folder / "model.safetensors").exists()
