"""The R1 recipe as a graph: every line a box, every keyword an arrow (R1 v2, figure 2).

    base ──GRPO──► zero ──samples──► cold-data          base + cold-data ──SFT──► cold-start
    cold-start ──GRPO──► reason ──samples──► corpus     base + corpus    ──SFT──► refine
    refine ──answers──► pairs, labels ──► helpful, harmless
    refine ──GRPO with both──► align                    student + corpus ──SFT──► distill

Both fine-tunings start again from the base. Every model sits the same exam. Models may be wired in as editor of the
cold data and as judge; published preference data may stand in for the answers of refine and a judge of them.
"""

from __future__ import annotations

from thinkery.pipeline.step import Step, step
from thinkery.recipes.common import RecipeConfig
from thinkery.stages.align import Align, align
from thinkery.stages.cold_data import ColdData, cold_data
from thinkery.stages.collect import Collect, collect
from thinkery.stages.curate import Curate, curate
from thinkery.stages.evaluate import Evaluate, evaluate
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.imitate import Distill, Imitate, imitate
from thinkery.stages.preference import Harmless, Helpful, Labels, Pairs, compare_answers, label_safety, reward_model
from thinkery.stages.published import PublishedLabels, PublishedPairs, published_labels, published_pairs
from thinkery.stages.reason import Reason, reason
from thinkery.stages.report import ReportConfig, report
from thinkery.stages.zero import Zero, zero


class R1(RecipeConfig):
    """All settings of the recipe, one block a step."""

    base: Fetch = Fetch()
    """The base model."""
    student: Fetch = Fetch(model="tiny-student")
    """The smaller base model that learns from the corpus."""
    editor: Fetch | None = None
    """The model that rewrites the cold data, for `cold_data.editor.who = "model"`."""
    judge: Fetch | None = None
    """The model that judges answers, for `who = "model"` in `judge` of corpus, pairs and labels."""
    exam: Collect = Collect(purpose="exam")
    """Held-out questions that every model answers."""
    problems: Collect = Collect()
    """Problems with checkable answers, for reinforcement learning and rejection sampling."""
    general: Collect = Collect()
    """Prompts without a rule, helpful and harmless."""
    zero: Zero = Zero()
    """Stage 0: GRPO on the base."""
    cold_data: ColdData = ColdData()
    """zero's samples, rewritten."""
    cold_start: Imitate = Imitate()
    """Stage 1: SFT of the base on them (dev1)."""
    reason: Reason = Reason()
    """Stage 2: GRPO with the language reward (dev2)."""
    corpus: Curate = Curate()
    """Rejection samples and general data."""
    refine: Imitate = Imitate()
    """Stage 3: SFT of the base on the corpus (dev3)."""
    pairs: Pairs = Pairs()
    """Preference pairs."""
    labels: Labels = Labels()
    """Safety labels."""
    published_pairs: PublishedPairs | None = None
    """Published pairs instead of judged answers; `pairs` is then left out."""
    published_labels: PublishedLabels | None = None
    """Published labels instead of judged responses; `labels` is then left out."""
    helpful: Helpful = Helpful()
    """The helpful reward model."""
    harmless: Harmless = Harmless()
    """The safety reward model."""
    align: Align = Align()
    """Stage 4: GRPO with rules and preference (r1)."""
    distill: Distill = Distill()
    """SFT of the student on the corpus."""
    evaluate: Evaluate = Evaluate()
    """The exam's protocol."""
    report: ReportConfig = ReportConfig()
    """The page at the end."""


def r1(cfg: R1) -> dict[str, Step]:
    """The whole recipe, from a base model to the report."""
    base = step("base", fetch, cfg.base)
    student = step("student", fetch, cfg.student)
    editor = step("editor", fetch, cfg.editor) if cfg.editor else None
    judge = step("judge", fetch, cfg.judge) if cfg.judge else None
    exam = step("exam", collect, cfg.exam)
    problems = step("problems", collect, cfg.problems, exam=exam)
    general = step("general", collect, cfg.general, exam=exam)

    zeroed = step("zero", zero, cfg.zero, base=base, tasks=problems, exam=exam)
    drafts = step("cold-data", cold_data, cfg.cold_data, teacher=zeroed, tasks=problems, editor=editor)
    cold = step("cold-start", imitate, cfg.cold_start, base=base, corpus=drafts)
    reasoner = step("reason", reason, cfg.reason, start=cold, tasks=problems, exam=exam)
    corpus = step(
        "corpus", curate, cfg.corpus, teacher=reasoner, tasks=problems, general=general, exam=exam, judge=judge
    )
    distilled = step("distill", imitate, cfg.distill, base=student, corpus=corpus)
    refined = step("refine", imitate, cfg.refine, base=base, corpus=corpus)
    pairs = (
        step("pairs", published_pairs, cfg.published_pairs)
        if cfg.published_pairs
        else step("pairs", compare_answers, cfg.pairs, model=refined, tasks=general, judge=judge)
    )
    labels = (
        step("labels", published_labels, cfg.published_labels)
        if cfg.published_labels
        else step("labels", label_safety, cfg.labels, model=refined, tasks=general, judge=judge)
    )
    helpful = step("helpful", reward_model, cfg.helpful, base=refined, data=pairs)
    harmless = step("harmless", reward_model, cfg.harmless, base=refined, data=labels)
    final = step(
        "align", align, cfg.align, start=refined, tasks=problems, general=general,
        helpful=helpful, harmless=harmless, exam=exam,
    )  # fmt: skip

    untaught = cfg.evaluate.model_copy(update={"template": cfg.zero.template, "style": "tags"})
    sits = {"base": base, "zero": zeroed, "cold-start": cold, "reason": reasoner, "refine": refined, "align": final}
    sits |= {"student": student, "distill": distilled}
    exams = {
        name: step(
            f"eval-{name}",
            evaluate,
            untaught if name in ("base", "zero", "student") else cfg.evaluate,
            model=model,
            exam=exam,
        )
        for name, model in sits.items()
    }
    last = step("report", report, cfg.report, **exams)
    return {one.name: one for one in (
        base, student, editor, judge, exam, problems, general, zeroed, drafts, cold, reasoner, corpus, distilled,
        refined, pairs, labels, helpful, harmless, final, *exams.values(), last,
    ) if one}  # fmt: skip
