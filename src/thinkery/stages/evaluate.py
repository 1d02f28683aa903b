"""What a stage can do: held-out problems by the paper's protocol, and general prompts where a rule judges them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Group, Sampling, Task
from thinkery.engine import Engine, EngineConfig
from thinkery.engine.pool import open_engines
from thinkery.evals.benchmark import Benchmark, Measurement, token_counter
from thinkery.evals.measure import count_answers, cut_note
from thinkery.model.hf import accelerator, load_model
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks, thinks_then_answers
from thinkery.rewards.language import consistency
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import is_reasoning, recorded_groups, sampled, spreading, template_of
from thinkery.tasks.world import follows, has_rule, liked, refuses_harm


class Exam(Config):
    """How questions are put, whatever judges the answers (R1 v2 §D.1)."""

    samples: int = Field(default=16, ge=1)
    """Attempts at each question, k."""
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95, max_tokens=32768)
    """R1 evaluates at temperature 0.6 and top-p 0.95, never greedily."""
    template: str = ""
    """What the model is asked with, where it is not the model's own (a base model has none)."""
    engine: EngineConfig = EngineConfig()
    """The sampler."""
    chunk: int = Field(default=64, ge=1, json_schema_extra={"key": False})
    """Questions between two points from which a killed exam continues."""

    def paper(self, tasks: Iterable[Task], rubric: Rubric) -> Benchmark:
        """These questions, to be asked as the settings say."""
        return Benchmark("exam", list(tasks), rubric, self.sampling, self.samples)


class Evaluate(Exam):
    """Settings of an evaluation."""

    style: Literal["tags", "chat"] = "chat"
    """What counts as well-formed: R1-Zero's answer tags, or a closed thought followed by an answer."""


def evaluate(run: Run, cfg: Evaluate, model: Model, exam: Dataset) -> Report:
    """Ask every exam question: problems that a rule judges, and the world's general prompts, which carry theirs."""
    general = Rubric(
        general=Part(follows, applies=has_rule),
        preference=Part(liked, applies=has_rule),
        harmless=Part(refuses_harm, applies=lambda task: has_rule(task) and "refuse" in task.info),
    )
    rubric = Rubric(**reasoning_rubric(cfg).parts, **general.parts)
    return sit_exam(run, cfg, model, cfg.paper(exam.tasks(), rubric))


def reasoning_rubric(cfg: Evaluate) -> Rubric:
    """How problems are judged that have a rule."""
    return Rubric(
        accuracy=Part(accuracy, applies=is_reasoning),
        format=Part(thinks_then_answers if cfg.style == "tags" else thinks, applies=is_reasoning),
        language=Part(consistency, applies=is_reasoning),
    )


def sit_exam(run: Run, cfg: Exam, model: Model, paper: Benchmark) -> Report:
    """The report is {"stage": …, "metrics": {name: estimate}}; every answer is kept in the record."""
    network, tokenizer = load_model(model.folder, device=accelerator())
    if cfg.template:
        tokenizer = tokenizer.with_template(template_of(cfg.template))
    found = Measurement(paper)
    with spreading(cfg.engine) as spread, open_engines(network, tokenizer, cfg.engine) as engine:
        count = token_counter(engine)
        for group in answers(run, cfg.chunk, engine, replace(paper, rubric=spread(paper.rubric))):
            found.add(group, count_answers(group, count))
    for note in found.notes():
        run.alarm("one-answer", note, "exam.sources", "ask what has many answers, each about as often")
    metrics = found.estimates()
    if cut := cut_note(metrics):
        run.alarm("truncated", cut, "evaluate.sampling.max_tokens", "allow twice the length, or more until few are cut")
    return run.save_report({"stage": run.step.removeprefix("eval-"), "metrics": metrics})


def answers(run: Run, chunk: int, engine: Engine, paper: Benchmark) -> Iterator[Group]:
    """Judged groups in the order of the questions, `chunk` of them at a time, from the record where it has them.

    A chunk is sampled alone and always whole, so that a killed exam continues with the very samples that an
    uninterrupted one would have drawn. After a change of `chunk`, one ends where a recorded one begins.
    """
    recorded, total = run.recorded(), len(paper.tasks)
    first = 0
    while first < total:
        groups = recorded_groups(recorded[first], paper) if first in recorded else []
        if not groups:
            end = min(first + chunk, *(number for number in recorded if number > first), total)
            groups = sampled(run, engine, replace(paper, tasks=paper.tasks[first:end]))
            run.rollouts(first, groups)
            run.progress(end, total)
            if run.stopping and end < total:
                run.stop()
        yield from groups
        first += len(groups)
