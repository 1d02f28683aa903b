"""What `bench/recipe.py` keeps of a finished run: the curves by update, and their figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.recipe import curves, figure, smoothed
from bench.seeds import gains, over_seeds

from thinkery.pipeline.read import RunRecord

REWARDS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def step(folder: Path, name: str, rows: list[dict[str, float | None]]) -> None:
    """A step's metrics as a run writes them."""
    path = folder / "steps" / f"{name}-abcdef12"
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    """RL that watched the exam at its start and twice more, one measurement without a value, and SFT."""
    rows: list[dict[str, float | None]] = [{"step": 0, "eval/exam/pass@1": 0.25}]
    rows += [{"step": n, "reward/mean": reward, "time/step": 9.0} for n, reward in enumerate(REWARDS, 1)]
    rows += [{"step": 3, "eval/exam/pass@1": 0.31}, {"step": 6, "eval/exam/pass@1": None}]
    step(tmp_path, "trained", rows)
    step(tmp_path, "imitated", [{"step": 1, "optim/loss": 2.0}])
    graph = [{"name": n, "key": "abcdef1234", "kind": "Model", "inputs": {}} for n in ("trained", "imitated")]
    return RunRecord(tmp_path, {"graph": graph})


def test_the_curves_of_a_run_are_its_rewards_and_its_held_out_accuracy_by_update(run: RunRecord) -> None:
    assert curves(run) == {
        "trained": {
            "reward": [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (5, 0.5), (6, 0.6)],
            "held_out": [(0, 0.25), (3, 0.31)],
        }
    }


def test_a_point_of_the_figure_is_the_mean_of_five_updates(run: RunRecord) -> None:
    assert smoothed(curves(run)["trained"]["reward"]) == [(3.0, pytest.approx(0.3)), (4.0, pytest.approx(0.4))]
    assert smoothed([(1, 0.1)]) == []


def test_the_figure_names_both_curves_and_is_a_file_of_its_own(run: RunRecord) -> None:
    drawn = figure("smollm2-puzzles", curves(run))
    assert drawn is not None
    assert drawn.startswith("<?xml")
    for words in ("smollm2-puzzles", "trained: held-out accuracy", "trained: mean reward"):
        assert f">{words}</text>" in drawn
    assert "currentColor" not in drawn


def test_without_held_out_accuracy_there_is_no_figure() -> None:
    assert figure("smollm2-short", {"zero": {"reward": [(1, 0.5)], "held_out": []}}) is None


def test_a_gain_is_beside_the_base_of_the_same_seed_with_an_interval_between_seeds() -> None:
    values = ((0.1, 0.3), (0.2, 0.6))
    seeds = [{"stages": {"base": {"pass@1": {"value": a}}, "trained": {"pass@1": {"value": b}}}} for a, b in values]
    assert over_seeds(seeds)["base"]["pass@1"]["value"] == pytest.approx(0.15)
    gain = gains(seeds)["trained"]["pass@1"]
    # 0.2 and 0.4: a standard error of 0.1, and Student's t with one degree of freedom is 12.71.
    assert (gain["value"], gain["n"]) == (pytest.approx(0.3), 2)
    assert (gain["low"], gain["high"]) == (pytest.approx(0.3 - 1.271, abs=1e-3), pytest.approx(0.3 + 1.271, abs=1e-3))
    assert "base" not in gains(seeds)
