"""How far a model's accuracy moves with the words it is asked in: the exam under every one of several templates."""

from __future__ import annotations

from itertools import islice

from pydantic import Field

from thinkery.evals.sensitivity import under_templates
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.run import Run
from thinkery.stages.common import is_reasoning, templates_of
from thinkery.stages.evaluate import Evaluate, reasoning_rubric, sit_exam


class Sensitivity(Evaluate):
    """Settings of the measurement: those of an evaluation, and the templates."""

    samples: int = Field(default=4, ge=1)
    """Attempts at each question under each template."""
    templates: tuple[str, ...] = ("chat-exam",)
    """How each question is put: sets such as `r1-zero-exam`, texts with `{question}`, or Jinja."""
    prompts: int = Field(default=200, ge=1)
    """Exam questions used at most, of those that a rule judges."""


def sensitivity(run: Run, cfg: Sensitivity, model: Model, exam: Dataset) -> Report:
    """Ask the first questions of the exam under every template; the record's numbers of templates count from 1."""
    templates = templates_of(cfg.templates)
    run.event("templates", texts=dict(enumerate(templates, 1)))
    asked = islice(filter(is_reasoning, exam.tasks()), cfg.prompts)
    return sit_exam(run, cfg, model, under_templates(cfg.paper(asked, reasoning_rubric(cfg)), templates))
