"""One's own data and reward: a base model, practice by GRPO, the same exam before and after.

data ──► exam, problems        base ──GRPO on problems──► trained        exam of both ──► report
"""

from __future__ import annotations

from thinkery.pipeline.step import Step, step
from thinkery.recipes.common import RecipeConfig
from thinkery.stages.collect import Collect, collect
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.own import Examine, Practise, Verdict, examine, practise
from thinkery.stages.report import ReportConfig, report


class Own(RecipeConfig):
    """Settings of a recipe on one's own data; `thinkery init --data …` writes one."""

    base: Fetch = Fetch()
    """The model to begin with."""
    exam: Collect = Collect(purpose="exam")
    """Held-out questions."""
    problems: Collect = Collect()
    """What is practised on."""
    verdict: Verdict = Verdict()
    """What says whether an answer is right, in practice and exam alike."""
    train: Practise = Practise()
    """The practice."""
    evaluate: Examine = Examine()
    """The exam's protocol."""
    report: ReportConfig = ReportConfig()
    """The page at the end."""


def own(cfg: Own) -> dict[str, Step]:
    """Practice, the exams, and the report."""
    train = cfg.train.model_copy(update={"verdict": cfg.verdict})
    sits = cfg.evaluate.model_copy(update={"verdict": cfg.verdict, "template": cfg.train.template})
    base = step("base", fetch, cfg.base)
    exam = step("exam", collect, cfg.exam)
    problems = step("problems", collect, cfg.problems, exam=exam)
    trained = step("trained", practise, train, base=base, tasks=problems, exam=exam)
    exams = {
        "base": step("eval-base", examine, sits, model=base, exam=exam),
        "trained": step("eval-trained", examine, sits, model=trained, exam=exam),
    }
    last = step("report", report, cfg.report, **exams)
    return {one.name: one for one in (base, exam, problems, trained, *exams.values(), last)}
