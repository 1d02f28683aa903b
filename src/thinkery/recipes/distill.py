"""Distillation alone: a teacher behind any OpenAI-style endpoint, a small base model, SFT (v1 §2.4).

problems ──► corpus (the endpoint's right and readable answers)     student + corpus ──SFT──► distill
"""

from __future__ import annotations

from thinkery.pipeline.step import Step, step
from thinkery.recipes.common import RecipeConfig
from thinkery.stages.collect import Collect, collect
from thinkery.stages.curate import Curate, curate
from thinkery.stages.evaluate import Evaluate, evaluate
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.imitate import Distill, imitate
from thinkery.stages.report import ReportConfig, report


class DistillRecipe(RecipeConfig):
    """Settings of a distillation from an endpoint."""

    student: Fetch = Fetch(model="tiny-student")
    """The model that learns."""
    template: str = "r1-zero"
    """What the untaught student is asked with in the exam."""
    exam: Collect = Collect(purpose="exam")
    """Held-out questions."""
    problems: Collect = Collect()
    """What the teacher is asked."""
    corpus: Curate = Curate()
    """The teacher's answers; `corpus.endpoint` says where it is."""
    distill: Distill = Distill()
    """The training."""
    evaluate: Evaluate = Evaluate()
    """The exam's protocol."""
    report: ReportConfig = ReportConfig()
    """The page at the end."""


def distill(cfg: DistillRecipe) -> dict[str, Step]:
    """Ask the teacher, teach the student, and examine it before and after."""
    student = step("student", fetch, cfg.student)
    exam = step("exam", collect, cfg.exam)
    problems = step("problems", collect, cfg.problems, exam=exam)
    corpus = step("corpus", curate, cfg.corpus, tasks=problems, exam=exam)
    distilled = step("distill", imitate, cfg.distill, base=student, corpus=corpus)
    untaught = cfg.evaluate.model_copy(update={"template": cfg.template, "style": "tags"})
    exams = {
        "student": step("eval-student", evaluate, untaught, model=student, exam=exam),
        "distill": step("eval-distill", evaluate, cfg.evaluate, model=distilled, exam=exam),
    }
    last = step("report", report, cfg.report, **exams)
    return {one.name: one for one in (student, exam, problems, corpus, distilled, *exams.values(), last)}
