"""Code and repairs, from nothing to RL: `thinkery run code`, about ten minutes on two cores.

    corpus ──► start ──next token──► base ──GRPO, hidden tests──► trained        exam of both ──► report

The base reads short Python functions of mixed quality. It then practises writing and repairing functions that no
document asked for; its programs run in the sandbox against hidden tests while the next ones are sampled.
"""

from __future__ import annotations

from thinkery.pipeline.step import Step, step
from thinkery.recipes.common import RecipeConfig
from thinkery.stages.collect import Collect, collect
from thinkery.stages.evaluate import Evaluate, evaluate
from thinkery.stages.pretrain import Corpus, Fresh, Pretrain, fresh, pretrain, world_corpus
from thinkery.stages.report import ReportConfig, report
from thinkery.stages.zero import Zero, zero


class Code(RecipeConfig):
    """Settings of the code recipe."""

    corpus: Corpus = Corpus(kind="listings")
    """What the base reads."""
    start: Fresh = Fresh()
    """The base's size."""
    base: Pretrain = Pretrain()
    """How it reads."""
    exam: Collect = Collect(purpose="exam")
    """Held-out functions to write and to repair."""
    problems: Collect = Collect()
    """Functions to practise on."""
    trained: Zero = Zero()
    """The practice: GRPO on hidden tests and form."""
    evaluate: Evaluate = Evaluate(style="tags")
    """The exam's protocol."""
    report: ReportConfig = ReportConfig()
    """The page at the end."""


def code(cfg: Code) -> dict[str, Step]:
    """Read, practise, and sit the same exam before and after."""
    corpus = step("corpus", world_corpus, cfg.corpus)
    start = step("start", fresh, cfg.start, corpus=corpus)
    base = step("base", pretrain, cfg.base, start=start, corpus=corpus)
    exam = step("exam", collect, cfg.exam)
    problems = step("problems", collect, cfg.problems, exam=exam)
    trained = step("trained", zero, cfg.trained, base=base, tasks=problems, exam=exam)
    asked = cfg.evaluate.model_copy(update={"template": cfg.trained.template})
    exams = {
        "base": step("eval-base", evaluate, asked, model=base, exam=exam),
        "trained": step("eval-trained", evaluate, asked, model=trained, exam=exam),
    }
    last = step("report", report, cfg.report, **exams)
    return {one.name: one for one in (corpus, start, base, exam, problems, trained, *exams.values(), last)}
