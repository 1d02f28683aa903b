"""Plans that a finished run has taught: scaled by what is planned, without the machine's pauses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench.plan import comparison

from thinkery.cli.recipe import open_recipe
from thinkery.core import Completion, Group, Rollout
from thinkery.pipeline.artifact import Dataset
from thinkery.pipeline.build import build
from thinkery.pipeline.read import RunRecord, open_run
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step
from thinkery.recipes.expected import Expected
from thinkery.recipes.measured import expected_of, measured, settings_of, spoken, taught, usual
from thinkery.recipes.plan import LETTERS, TEMPLATE_TOKENS, Need, Plan
from thinkery.stages.cold_data import ColdData
from thinkery.stages.collect import Collect, collect
from thinkery.tasks.sources import Source

ROWS = [
    {"step": n, "time/step": seconds, "perf/tokens_per_s": 50.0, "perf/rss": 2e9 + n}
    for n, seconds in enumerate((2, 2, 92), 1)
]
"""Two steps as usual, and one in which the machine paused for 90 s."""


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    """A finished step that took 100 s, and one that was never begun."""
    folder = tmp_path / "steps" / "zero-abcdef12"
    folder.mkdir(parents=True)
    (folder / "artifact.json").write_text(json.dumps({"done": 3, "total": 3, "seconds": 100.0}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    graph = [{"name": name, "key": "abcdef1234", "kind": "Model", "inputs": {}} for name in ("zero", "reason")]
    return RunRecord(tmp_path, {"graph": graph})


def test_a_step_that_was_done_is_scaled_and_another_stays_as_planned(run: RunRecord) -> None:
    old = Plan([Need("zero", "learning", 1, 3e9, 4000, 40.0), Need("reason", "learning", 1, 3e9, 4000, 40.0)], [], 1.0)
    new = replace(old, needs=[Need("zero", "learning", 1, 4e9, 8000, 60.0), *old.needs[1:]])
    zero, reason = taught(new, old, run).needs
    assert zero.seconds == pytest.approx((100 - 90) * 60 / 40)
    assert zero.tokens == pytest.approx(50 * 96 * 8000 / 4000)
    assert zero.memory == pytest.approx(2e9 + 3 + 1e9)
    assert reason == new.needs[1]


def test_pauses_count_as_measured_but_not_as_usual(run: RunRecord) -> None:
    assert measured(run, "zero") == {"seconds": 100.0, "tokens": 4800.0, "memory": 2e9 + 3}
    assert usual(run, "zero")["seconds"] == 10.0


def test_a_plan_is_set_beside_a_run_step_by_step_and_in_all(run: RunRecord) -> None:
    needs = {name: Need(name, "learning", 1, 1.8e9, 4000, 80.0) for name in ("zero", "reason")}
    found = comparison(needs, run)
    assert [row["step"] for row in found["steps"]] == ["zero"]  # the other was never begun
    assert found["totals"]["seconds"] == {"planned": 80.0, "measured": 100.0, "off": -0.2}
    assert found["totals"]["tokens"] == {"planned": 4000, "measured": 4800.0, "off": -0.1667}
    assert found["totals"]["memory"]["off"] == pytest.approx(-0.1)
    assert found["holds"]
    needs["zero"] = replace(needs["zero"], memory=2.6e9)
    assert not comparison(needs, run)["holds"]


def test_the_settings_of_a_run_come_back_from_its_record(tmp_path: Path) -> None:
    recipe = open_recipe(["tiny"], ["zero.grpo.updates=7"], environ={})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.record()))
    assert type(recipe.config)(**settings_of(RunRecord(tmp_path, {}))) == recipe.config


def drafts(run: Run, cfg: ColdData, tasks: Dataset) -> Dataset:
    """Two answers to each question, of three tokens and of five; the first two questions leave a row."""
    writer = run.dataset()
    for number, task in enumerate(tasks.tasks(), 1):
        said = [Completion("so", tokens=(1,) * tokens, answer="so") for tokens in (3, 5)]
        judged = [Rollout(task, (9,), one, {}, 0.0, sample) for sample, one in enumerate(said)]
        run.rollouts(number, [Group(task, tuple(judged))])
        run.metrics(number, {"group/no_spread": 0.25})
        if number <= 2:
            turn = {"role": "assistant", "thought": "x" * 16, "content": "y" * 24}
            writer.add({"messages": [{"role": "user", "content": "z" * 40}, turn]}, str(number))
    return writer.finish()


def test_what_a_run_sampled_and_kept_is_what_a_plan_may_expect(tmp_path: Path) -> None:
    problems = step("problems", collect, Collect(sources=(Source(source="world", kind="chain", limit=5),)))
    made = step("cold-data", drafts, ColdData(samples=2, keep=1), tasks=problems)
    steps = {one.name: one for one in (problems, made)}
    build(steps, tmp_path / "run", seed=0)
    found = expected_of(open_run(tmp_path / "run"), steps)
    assert found.tokens == {"cold-data": 4.0}
    assert found.kept == {"cold-data": 0.4}  # two of the five that could have been
    assert found.learnt == {"cold-data": 0.75}
    assert found.rows == {"cold-data": TEMPLATE_TOKENS + (40 + 16 + 24) / LETTERS}
    recipe = Expected(tokens={"cold-data": 9.0, "zero": 7.0}, kept={"zero": 0.5})
    assert found.over(recipe).tokens == {"cold-data": 4.0, "zero": 7.0}
    assert found.over(recipe).kept == {"cold-data": 0.4, "zero": 0.5}


def test_documents_and_pairs_have_texts_as_conversations_have() -> None:
    said = {"role": "assistant", "content": "b", "thought": "a"}
    assert list(spoken({"text": "a whole page"})) == ["a whole page"]
    assert list(spoken({"messages": [{"role": "user", "content": "q"}], "chosen": said, "rejected": {}})) == [
        "",
        "q",
        "a",
        "b",
    ]
