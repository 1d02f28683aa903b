"""The code recipe, cut to seconds: a base from nothing, two updates on hidden tests, and what is recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from thinkery.cli.recipe import open_recipe
from thinkery.pipeline.build import build
from thinkery.pipeline.read import open_run
from thinkery.sandbox import shared_pool

SMALL = """
extends = "code"

[corpus]
documents = 700
[start]
vocabulary = 420
width = 32
layers = 1
heads = 2
feed_forward = 64
[base]
held_out = 50
[exam]
sources = [{ source = "world", kind = "code,fix", split = "held-out", limit = 6 }]
[problems]
sources = [{ source = "world", kind = "code,fix", limit = 24 }]
[trained]
watched = 4
[trained.grpo]
updates = 2
questions_per_update = 4
group_size = 4
max_tokens = [[0, 48]]
preflight = 0  # so small a base has not learnt the form
eval_every = 2
[evaluate]
samples = 2
sampling = { max_tokens = 48 }
"""


def test_a_base_is_made_practises_and_is_examined(tmp_path: Path) -> None:
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    (tmp_path / "small.toml").write_text(SMALL)
    build(open_recipe([str(tmp_path / "small.toml")], environ={}).graph(), tmp_path / "run", seed=1)
    shared_pool().close()
    record = open_run(tmp_path / "run")
    report = next(a.data for a in record.artifacts.values() if a.name == "report")
    assert list(report["stages"]) == ["base", "trained"]
    assert report["claims"] == []
    assert report["stages"]["trained"]["ungraded"]["value"] == 0.0
    assert {"pass@1/kind=code", "pass@1/kind=software"} <= report["stages"]["base"].keys()
    rows = [row for row in record.metrics("trained") if "reward/mean" in row]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["reward/ungraded"] == 0.0
        assert row["time/reward"] > 0.0
        assert row["time/rollout"] + row["time/update"] <= row["time/step"] * 1.001
    losses = [row["optim/loss"] for row in record.metrics("base")]
    assert losses[-1] < losses[0]
