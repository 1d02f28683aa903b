"""The stage that compares templates, and reinforcement learning that draws one for each question."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from thinkery.core import Sampling, Task
from thinkery.errors import ConfigError, Stopped
from thinkery.pipeline.artifact import Dataset, Model, task_to_row
from thinkery.pipeline.run import Run
from thinkery.stages.common import put_reasoning, templates_of
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import reworded
from thinkery.stages.sensitivity import Sensitivity, sensitivity
from thinkery.stages.zero import Zero, zero
from thinkery.tasks.sources import Source, load_tasks
from thinkery.tasks.templates import TEMPLATE_SETS, put_one
from thinkery.tasks.world import ZERO_TEMPLATE
from thinkery.train.grpo import Grpo
from thinkery.train.policy import PolicyConfig

SMALL = Grpo(
    policy=PolicyConfig(lr=1e-4), updates=2, questions_per_update=4, group_size=4, minibatches=1, max_tokens=((0, 32),),
    beta=0.0, preflight=0, checkpoint_every=1,
)  # fmt: skip
PRACTICE = Zero(template="world-zero", templates=("world-zero-practice",), grpo=SMALL)


@pytest.fixture
def base(tmp_path: Path) -> Model:
    return fetch(Run(tmp_path / "base", "base", seed=1), Fetch())


def dataset(folder: Path, *sources: Source) -> Dataset:
    """The tasks of these sources."""
    writer = Run(folder, folder.name, seed=1).dataset()
    for n, task in enumerate(load_tasks(sources, seed=1)):
        writer.add(task_to_row(task), f"{n:04d}")
    return writer.finish()


@pytest.fixture
def problems(tmp_path: Path) -> Dataset:
    return dataset(tmp_path / "problems", Source(source="world", limit=40))


def attempts(run: Run) -> list[dict]:
    """Every recorded attempt of a run, in order."""
    files = sorted(run.dir.glob("rollouts/*.jsonl.gz"))
    return [json.loads(line) for file in files for line in gzip.open(file)]


def events(run: Run, kind: str) -> list[dict]:
    rows = map(json.loads, (run.dir / "events.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def weights(model: Model) -> dict[str, torch.Tensor]:
    return load_file(model.folder / "model.safetensors")


def test_a_setting_names_sets_templates_and_texts_and_a_typing_error_is_refused() -> None:
    assert templates_of(["world-zero", "Say: {question}"]) == [ZERO_TEMPLATE, "Say: {question}"]
    assert templates_of(["world-zero-exam"]) == list(TEMPLATE_SETS["world-zero-exam"])
    with pytest.raises(ConfigError, match="world-zero-exam"):
        templates_of(["world-zero-exams"])


def test_a_models_templates_are_compared_on_the_questions_that_a_rule_judges(tmp_path, base) -> None:
    exam = dataset(
        tmp_path / "exam", Source(source="world-general", limit=2), Source(source="world", kind="cups", limit=9)
    )
    run = Run(tmp_path / "zero-templates", "zero-templates", seed=1)
    told = ("world-zero", "Hello. {question}")
    cfg = Sensitivity(
        template="world-zero", style="tags", templates=told, prompts=5, samples=2, sampling=Sampling(max_tokens=24)
    )
    found = sensitivity(run, cfg, base, exam).data
    assert found["stage"] == "zero-templates"
    metrics = found["metrics"]
    assert metrics["template_mean"]["n"] == metrics["template_spread"]["n"] == 5
    rows = attempts(run)
    assert len(rows) == 5 * 2 * 2
    assert [row["template"] for row in rows] == [1] * 10 + [2] * 10
    by_template = [[r["scores"]["accuracy"]["value"] for r in rows if r["template"] == n] for n in (1, 2)]
    means = [sum(values) / 10 for values in by_template]
    assert [metrics[f"pass@1/template={n}"]["value"] for n in (1, 2)] == pytest.approx(means)
    assert metrics["template_spread"]["value"] == pytest.approx(abs(means[0] - means[1]))
    assert rows[-1]["prompt"] == "Hello. " + rows[8]["prompt"]
    assert events(run, "templates")[0]["texts"] == {"1": ZERO_TEMPLATE, "2": "Hello. {question}"}


def test_each_question_draws_a_template_for_its_whole_group_and_the_record_says_which(tmp_path, base, problems) -> None:
    run = Run(tmp_path / "run", "zero", seed=3)
    trained = zero(run, PRACTICE, base, problems)
    texts = TEMPLATE_SETS["world-zero-practice"]
    drawn = {task.id: put_one(task, texts, 3).info["template"] for task in problems.tasks()}
    rows = attempts(run)
    assert len(rows) == 2 * 4 * 4
    assert {row["task"]: row["template"] for row in rows}.items() <= drawn.items()
    assert len({row["template"] for row in rows}) > 2
    assert [*events(run, "templates")[0]["texts"].values()] == list(texts)
    assert (trained.folder / "chat_template.jinja").read_text() == ZERO_TEMPLATE


def test_general_prompts_keep_their_words() -> None:
    question, chat = Task("a/1", "2 + 3?", "math", "5"), Task("b/1", "Hello", "general")
    worded, same = put_reasoning([question, chat], ("Tell me: {question}",), seed=0)
    assert worded.prompt == "Tell me: 2 + 3?"
    assert same is chat


def test_tasks_that_change_on_the_way_keep_their_templates(tmp_path, problems) -> None:
    tasks = list(problems.tasks())
    run = Run(tmp_path / "run", "align", seed=3)
    asked = reworded(run, PRACTICE, lambda update: tasks[update:])
    assert callable(asked)
    assert list(asked(5)) == list(asked(0))[5:]


def test_without_templates_nothing_is_drawn(tmp_path, base, problems) -> None:
    run = Run(tmp_path / "run", "zero", seed=3)
    zero(run, PRACTICE.model_copy(update={"templates": ()}), base, problems)
    assert all("template" not in row for row in attempts(run))
    assert events(run, "templates") == []


def test_a_stopped_run_with_templates_continues_bit_for_bit(tmp_path, base, problems) -> None:
    steady = Run(tmp_path / "steady", "zero", seed=3)
    whole = zero(steady, PRACTICE, base, problems)
    stopping = Run(tmp_path / "stopped", "zero", seed=3)
    stopping.stopping = True
    with pytest.raises(Stopped):
        zero(stopping, PRACTICE, base, problems)
    assert len(attempts(stopping)) == 16
    resumed = zero(Run(tmp_path / "stopped", "zero", seed=3, attempt=2), PRACTICE, base, problems)
    assert attempts(stopping) == attempts(steady)
    ours, theirs = weights(resumed), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
