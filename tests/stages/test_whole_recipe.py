"""The whole recipe on the embedded base, cut to seconds: what it makes, and that being killed changes none of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinkery.pipeline.artifact import load_artifact
from thinkery.pipeline.read import open_run

SMALL = """
extends = "tiny"

[exam]
sources = [
    { source = "world", split = "held-out", limit = 16 },
    { source = "world-general", split = "held-out", limit = 12 },
]
[problems]
sources = [{ source = "world", limit = 120 }]
[general]
sources = [{ source = "world-general", limit = 90 }]
[zero]
watched = 8
[zero.grpo]
updates = 3
questions_per_update = 4
group_size = 4
preflight = 64
checkpoint_every = 1
eval_every = 2
[cold_data]
prompts = 60
samples = 8
chunk = 20
[cold_start.sft]
epochs = 1
batch = 4
checkpoint_every = 2
[reason.grpo]
updates = 2
questions_per_update = 4
group_size = 4
preflight = 0  # so little training may leave the form unlearnt
checkpoint_every = 1
[corpus]
prompts = 24
chunk = 8
[refine.sft]
epochs = 1
checkpoint_every = 2
[pairs]
prompts = 40
chunk = 20
[labels]
prompts = 40
chunk = 20
[align]
preference_from = 1
[align.grpo]
updates = 2
questions_per_update = 4
group_size = 4
preflight = 0  # so little training may leave the form unlearnt
checkpoint_every = 1
[distill.sft]
epochs = 1
checkpoint_every = 2
[evaluate]
samples = 2
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """`thinkery run` of the small recipe in a process of its own."""
    folder.parent.mkdir(exist_ok=True)
    recipe = folder.parent / "small.toml"
    recipe.write_text(SMALL)
    environ = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "thinkery.cli", "run", str(recipe), "--dir", str(folder)]
    return subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def contents(folder: Path) -> dict[str, str]:
    """The content hash of everything the run made."""
    return {a.name: a.manifest["content"] for a in map(load_artifact, sorted((folder / "steps").glob("*[!l]")))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(folder)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert "thinkery chat" in output
    return folder


def test_every_step_is_done_and_the_report_has_every_stage(whole: Path) -> None:
    record = open_run(whole)
    assert {step.status for step in record.steps.values()} == {"done"}
    report = next(artifact.data for artifact in record.artifacts.values() if artifact.name == "report")
    assert list(report["stages"]) == [
        "base", "zero", "cold-start", "reason", "refine", "align", "student", "distill",
    ]  # fmt: skip
    for metrics in report["stages"].values():
        assert metrics["pass@1"].keys() == {"value", "low", "high", "n"}
        assert metrics["pass@1"]["n"] == 16
        assert metrics["general"]["n"] == 12
    assert {claim["id"] for claim in report["claims"]} >= {"zero-multiplies", "distill-teaches"}


def test_cards_say_what_a_model_is_for(whole: Path) -> None:
    tags = {"align": "text-generation", "helpful": "text-classification"}
    for name, tag in tags.items():
        model = open_run(whole).artifacts[name]
        assert f"\npipeline_tag: {tag}\n" in (model.folder / "README.md").read_text()  # type: ignore[attr-defined]


def test_both_fine_tunings_start_from_the_base(whole: Path) -> None:
    inputs = {name: step.inputs for name, step in open_run(whole).steps.items()}
    assert inputs["cold-start"] == {"base": "base", "corpus": "cold-data"}
    assert inputs["refine"] == {"base": "base", "corpus": "corpus"}
    assert inputs["distill"] == {"base": "student", "corpus": "corpus"}


def test_cold_data_was_right_and_is_in_the_language_of_its_question(whole: Path) -> None:
    artifact = next(a for a in open_run(whole).artifacts.values() if a.name == "cold-data")
    rows = list(artifact.rows())  # type: ignore[attr-defined]
    assert rows
    for row in rows:
        thought = row["messages"][-1]["thought"]
        assert ("我一步一步来" in thought) == (row["language"] == "zh")
        assert row["meta"]["diff"]


def test_every_sample_is_in_the_record_with_its_rewards_and_reasons(whole: Path) -> None:
    record = open_run(whole)
    rows = list(record.rollouts("zero", 1))
    assert len(rows) == 16
    for row in rows:
        assert set(row["scores"]) == {"accuracy", "format"}
        assert all(score["reason"] for score in row["scores"].values())
    assert any("eval/exam/pass@1" in row for row in record.metrics("zero"))


def test_running_again_does_nothing(whole: Path) -> None:
    before = contents(whole)
    process = start(whole)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "begin" not in output
    assert contents(whole) == before


def test_killed_at_random_moments_it_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    rng = random.Random(int(os.environ.get("THINKERY_TEST_SEED", time.time_ns())))
    folder = tmp_path / "run"
    for _ in range(3):
        process = start(folder)
        time.sleep(rng.uniform(6, 16))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    process = start(folder)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    made, wanted = contents(folder), contents(whole)
    made.pop("report"), wanted.pop("report")  # it shows times
    assert made == wanted
    assert json.loads((folder / "run.json").read_text())["id"] != json.loads((whole / "run.json").read_text())["id"]
