"""What a stage can do: held-out problems by the paper's protocol, and general prompts where a rule judges them."""

from __future__ import annotations

from typing import Literal

from thinkery.config import Config
from thinkery.core import Group, Sampling
from thinkery.engine import EngineConfig, open_engine
from thinkery.evals.benchmark import Benchmark
from thinkery.evals.benchmark import evaluate as measure_on
from thinkery.model.hf import load_model
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks, thinks_then_answers
from thinkery.rewards.language import consistency
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import is_reasoning, template_of
from thinkery.tasks.world import follows, has_rule, liked, refuses_harm


class Exam(Config):
    """How questions are put, whatever judges the answers (R1 v2 §D.1)."""

    samples: int = 16
    """Attempts at each question, k."""
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95, max_tokens=32768)
    """R1 evaluates at temperature 0.6 and top-p 0.95, never greedily."""
    template: str = ""
    """What the model is asked with, where it is not the model's own (a base model has none)."""
    engine: EngineConfig = EngineConfig()
    """The sampler."""


class Evaluate(Exam):
    """Settings of an evaluation."""

    style: Literal["tags", "chat"] = "chat"
    """What counts as well-formed: R1-Zero's answer tags, or a closed thought followed by an answer."""


def evaluate(run: Run, cfg: Evaluate, model: Model, exam: Dataset) -> Report:
    """Ask every exam question: problems that a rule judges, and the world's general prompts, which carry theirs."""
    rubric = Rubric(
        accuracy=Part(accuracy, applies=is_reasoning),
        format=Part(thinks_then_answers if cfg.style == "tags" else thinks, applies=is_reasoning),
        language=Part(consistency, applies=is_reasoning),
        general=Part(follows, applies=has_rule),
        preference=Part(liked, applies=has_rule),
        harmless=Part(refuses_harm, applies=lambda task: has_rule(task) and "refuse" in task.info),
    )
    return sit_exam(run, cfg, model, exam, rubric)


def sit_exam(run: Run, cfg: Exam, model: Model, exam: Dataset, rubric: Rubric) -> Report:
    """The report is {"stage": …, "metrics": {name: estimate}}; every answer is kept in the record."""
    tasks = list(exam.tasks())
    network, tokenizer = load_model(model.folder)
    if cfg.template:
        tokenizer = tokenizer.with_template(template_of(cfg.template))
    groups: dict[str, Group] = {}

    def seen(group: Group) -> None:
        groups[group.task.id] = group
        run.progress(len(groups), len(tasks))

    with open_engine(network, tokenizer, cfg.engine) as engine:
        paper = Benchmark("exam", tasks, rubric, cfg.sampling, cfg.samples)
        metrics = measure_on(engine, paper, seed=run.seed, on_group=seen)
    run.rollouts(0, [groups[task.id] for task in tasks])
    return run.save_report({"stage": run.step.removeprefix("eval-"), "metrics": metrics})
