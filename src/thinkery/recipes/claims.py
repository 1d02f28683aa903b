"""The R1 recipe with the controls that its claims need: what the paper compares its models with.

base, many attempts   is the right answer within reach of the base at all (pass@64)?
longer problems       do the skills reach beyond the lengths of training?
student-zero          RL on the student itself, with at least the compute of its distillation
direct                the full-size base taught to answer at once
align-vs-refine       whose answers are preferred, by rules that trained nothing
templates             zero and align under ten wordings of the prompt
"""

from __future__ import annotations

from thinkery.pipeline.step import Step, step
from thinkery.recipes.r1 import R1, r1
from thinkery.stages.collect import Collect, collect
from thinkery.stages.direct import Direct, bare_answers
from thinkery.stages.duel import Duel, duel
from thinkery.stages.evaluate import Evaluate, evaluate
from thinkery.stages.imitate import Imitate, imitate
from thinkery.stages.report import report
from thinkery.stages.sensitivity import Sensitivity, sensitivity
from thinkery.stages.zero import Zero, zero


class Claims(R1):
    """The settings of R1 and of its controls."""

    many: Evaluate = Evaluate(samples=64)
    """How the base is asked when what counts is whether any attempt is right."""
    longer: Collect = Collect(purpose="exam")
    """Problems with more steps than any seen in training."""
    student_zero: Zero = Zero()
    """RL on the student."""
    answers: Direct = Direct()
    """What the direct model is taught."""
    direct: Imitate = Imitate()
    """How."""
    duel: Duel = Duel()
    """What decides which answer is better."""
    zero_templates: Sensitivity = Sensitivity(templates=("world-zero-exam",))
    """The wordings that zero is asked with."""
    align_templates: Sensitivity = Sensitivity(templates=("world-chat-exam",))
    """The wordings that align is asked with."""


def claims(cfg: Claims) -> dict[str, Step]:
    """The R1 graph, its controls, and one report on both."""
    steps = r1(cfg)
    base, exam, problems = steps["base"], steps["exam"], steps["problems"]
    longer = step("longer", collect, cfg.longer)
    student_zero = step("student-zero", zero, cfg.student_zero, base=steps["student"], tasks=problems)
    answers = step("answers", bare_answers, cfg.answers, tasks=problems)
    direct = step("direct", imitate, cfg.direct, base=base, corpus=answers)
    untaught = {"template": cfg.zero.template, "style": "tags"}

    def sits(name: str, settings: Evaluate, model: Step, paper: Step) -> Step:
        return step(f"eval-{name}", evaluate, settings, model=model, exam=paper)

    as_zero = cfg.evaluate.model_copy(update=untaught)
    exams = [
        sits("base-many", cfg.many.model_copy(update=untaught), base, exam),
        sits("base-longer", as_zero, base, longer),
        sits("zero-longer", as_zero, steps["zero"], longer),
        sits("align-longer", cfg.evaluate, steps["align"], longer),
        sits("student-zero", as_zero, student_zero, exam),
        sits("direct", cfg.evaluate, direct, exam),
        step(
            "zero-templates", sensitivity, cfg.zero_templates.model_copy(update=untaught), model=steps["zero"],
            exam=exam,
        ),
        step("align-templates", sensitivity, cfg.align_templates, model=steps["align"], exam=exam),
        step("align-vs-refine", duel, cfg.duel, first=steps["eval-align"], second=steps["eval-refine"]),
    ]  # fmt: skip
    first = steps.pop("report").inputs
    controls = {one.name: one for one in (longer, student_zero, answers, direct, *exams)}
    last = step("report", report, cfg.report, **first, **{one.name: one for one in exams})
    return {**steps, **controls, "report": last}
