from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.sinks import readers

from thinkery.pipeline.read import open_run

SUNK = Path(__file__).with_name("sunk.py")
SINKS = ("tensorboard", "trackio", "wandb", "mlflow")


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every sink, killed at update 8 after a checkpoint at 5, and continued to its end."""
    for library in ("tensorboard", "trackio", "wandb", "mlflow"):
        pytest.importorskip(library, reason="the sinks' libraries are extras")
    folder = tmp_path_factory.mktemp("runs") / "climb"
    env = {**os.environ, "TRACKIO_DIR": str(folder.parent / "trackio"), "WANDB_ERROR_REPORTING": "false"}
    for die_at in ("8", "0"):
        words = [sys.executable, str(SUNK), str(folder), die_at]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == (-9 if die_at == "8" else 0), done.stderr
        assert done.stdout == ""
    return folder


@pytest.mark.parametrize("name", SINKS)
def test_a_resumed_run_continues_its_curves_without_gap_or_repetition(
    killed_and_resumed: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "trackio":
        import trackio.sqlite_storage

        monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", killed_and_resumed.parent / "trackio")
    read: Callable[[Path, str], readers.Curves] = getattr(readers, name)
    run = open_run(killed_and_resumed)
    (id, curves), *others = read(killed_and_resumed / "sinks", "proof").items()
    assert (id, others) == (f"{run.id}-climb-1", [])
    assert curves["reward/mean"] == [(update, pytest.approx(update / 10)) for update in range(1, 13)]
    assert [step for step, _ in curves["optim/loss"]] == [1, 2, *range(4, 13)]  # what is not finite has no point
    exam = curves["eval/exam/pass_at_1" if name == "mlflow" else "eval/exam/pass@1"]
    assert exam == [(4, 0.2), (8, 0.4), (12, pytest.approx(0.6))]


def test_nothing_of_the_sinks_stays_in_the_finished_step(killed_and_resumed: Path) -> None:
    run = open_run(killed_and_resumed)
    assert sorted(p.name for p in run.steps["climb"].path.iterdir()) == ["artifact.json", "metrics.jsonl", "report"]
    assert [row["alarm"] for row in run.events() if row["kind"] == "alarm"] == []
