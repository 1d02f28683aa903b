"""The paper's claims, checked on a run: each is a plain function from the stage table to a verdict with its figures.

A claim whose stages or metrics a run does not have is left out. A gated claim that does not hold fails the run's gate.
Anyone can decide them again: `check_claims(report["stages"])` reads nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from thinkery.evals.metrics import Estimate

Stages = Mapping[str, Mapping[str, Estimate]]

# The paper's names for its checkpoints, and the steps of the recipe that make them.
BASE, ZERO, DEV1, DEV2, DEV3, FINAL = "base", "zero", "cold-start", "reason", "refine", "align"
STUDENT, DISTILLED = "student", "distill"

# What the recipe `claims` measures besides.
STUDENT_ZERO, DIRECT, DUEL = "student-zero", "direct", "align-vs-refine"
ZERO_TEMPLATES, FINAL_TEMPLATES = "zero-templates", "align-templates"

ACCURACY, LANGUAGE, FORMAT, GENERAL, HARMLESS = "pass@1", "language", "format", "general", "harmless"
WELL_FORMED = "pass@1/well-formed"
"""Accuracy of the attempts that have the form asked for: for a base, those that think inside the tags."""
WINS, SPREAD, FLOPS = "wins", "template_spread", "train_flops"


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of the paper, whether it `holds` here, and the numbers it was decided on."""

    id: str
    text: str
    holds: bool
    figures: dict[str, float]
    gated: bool


def check_claims(stages: Stages) -> list[Claim]:
    """Every claim that this run can speak about, in the order of the paper's story."""
    return [claim for check in CLAIMS if (claim := check(stages))]


def zero_multiplies(stages: Stages) -> Claim | None:
    """RL alone takes a base of 10 to 18 % past 60 % and to 4.5 times as much (the paper: 15.6 to 71.0)."""

    def holds(base: float, zero: float) -> bool:
        return 0.10 <= base <= 0.18 and zero >= 0.60 and zero >= 4.5 * base

    text = "RL alone: a base of 10-18 % comes to 60 % or more, at least 4.5 × itself"
    return _claim(stages, "zero-multiplies", text, holds, (BASE, ACCURACY), (ZERO, ACCURACY))


def zero_learns_to_think(stages: Stages) -> Claim | None:
    """RL does more than pick a mode: zero beats the base's own tagged thoughts by 15 points."""
    text = "RL improves thinking itself: zero is 15 points above the base's attempts that think inside the tags"
    return _claim(
        stages, "zero-beats-own-thoughts", text, lambda own, zero: zero >= own + 0.15, (BASE, WELL_FORMED),
        (ZERO, ACCURACY),
    )  # fmt: skip


def zero_mixes(stages: Stages) -> Claim | None:
    """Without a language reward zero mixes languages."""
    text = "zero mixes languages: consistency at most 0.9"
    return _claim(stages, "zero-mixes", text, lambda language: language <= 0.90, (ZERO, LANGUAGE))


def cold_start_reads_well(stages: Stages) -> Claim | None:
    """The cold start mends language and format."""
    text = "the cold start is readable: language at least 0.95, format at least 0.98"
    return _claim(
        stages, "cold-start-readable", text, lambda language, form: language >= 0.95 and form >= 0.98,
        (DEV1, LANGUAGE), (DEV1, FORMAT),
    )  # fmt: skip


def reasoning_returns(stages: Stages) -> Claim | None:
    """Reasoning RL brings dev2 back to zero's accuracy, in one language."""
    text = "reasoning RL restores accuracy: within 2 points of zero, language at least 0.97"
    return _claim(
        stages, "reason-restores", text, lambda zero, dev2, language: dev2 >= zero - 0.02 and language >= 0.97,
        (ZERO, ACCURACY), (DEV2, ACCURACY), (DEV2, LANGUAGE),
    )  # fmt: skip


def refining_generalises(stages: Stages) -> Claim | None:
    """The large SFT mix lifts general tasks and keeps reasoning."""
    text = "the large SFT mix lifts general tasks by 20 points and costs at most 3 points of reasoning"
    return _claim(
        stages, "refine-generalises", text,
        lambda before, after, dev2, dev3: after >= before + 0.20 and dev3 >= dev2 - 0.03,
        (DEV2, GENERAL), (DEV3, GENERAL), (DEV2, ACCURACY), (DEV3, ACCURACY),
    )  # fmt: skip


def aligning_pleases(stages: Stages) -> Claim | None:
    """The answers of align are preferred to those of refine, by rules that trained nothing."""
    text = "the last RL stage is preferred at least 65 : 35 to the model it started from"
    return _claim(stages, "align-preferred", text, lambda wins: wins >= 0.65, (DUEL, WINS))


def aligning_is_safe(stages: Stages) -> Claim | None:
    """align is harmless and has not forgotten how to reason."""
    text = "the last RL stage is harmless on 95 % and keeps reasoning within 2 points"
    return _claim(
        stages, "align-harmless", text, lambda safe, dev3, final: safe >= 0.95 and final >= dev3 - 0.02,
        (FINAL, HARMLESS), (DEV3, ACCURACY), (FINAL, ACCURACY),
    )  # fmt: skip


def distilling_teaches(stages: Stages) -> Claim | None:
    """A small model that imitates the corpus beats its own base."""
    text = "a distilled student beats its own base"
    return _claim(
        stages, "distill-teaches", text, lambda base, sft: sft > base, (STUDENT, ACCURACY), (DISTILLED, ACCURACY),
        gated=False,
    )  # fmt: skip


def distilling_beats_rl(stages: Stages) -> Claim | None:
    """Imitating the corpus teaches a small model more than RL of its own, which may spend as much compute or more."""
    text = "distillation beats RL on the small model, which spent at least as many FLOPs"
    return _claim(
        stages, "distill-beats-rl", text, lambda rl, sft, rl_flops, sft_flops: sft > rl and rl_flops >= sft_flops,
        (STUDENT_ZERO, ACCURACY), (DISTILLED, ACCURACY), (STUDENT_ZERO, FLOPS), (DISTILLED, FLOPS),
    )  # fmt: skip


def small_reasoner_beats_large(stages: Stages) -> Claim | None:
    """A small model that thinks beats a larger one that was taught to answer at once."""
    text = "a small reasoner beats the full-size base taught to answer without thinking"
    return _claim(
        stages, "small-reasoner-wins", text, lambda large, small: small > large, (DIRECT, ACCURACY),
        (DISTILLED, ACCURACY),
    )  # fmt: skip


def prompts_matter_less(stages: Stages) -> Claim | None:
    """The finished model depends less on how it is asked than zero does."""
    text = "over paraphrased templates r1's spread is at most half of zero's"
    return _claim(
        stages, "prompts-matter-less", text, lambda zero, final: final <= zero / 2, (ZERO_TEMPLATES, SPREAD),
        (FINAL_TEMPLATES, SPREAD),
    )  # fmt: skip


CLAIMS: tuple[Callable[[Stages], Claim | None], ...] = (
    zero_multiplies,
    zero_learns_to_think,
    zero_mixes,
    cold_start_reads_well,
    reasoning_returns,
    refining_generalises,
    aligning_pleases,
    aligning_is_safe,
    distilling_teaches,
    distilling_beats_rl,
    small_reasoner_beats_large,
    prompts_matter_less,
)


def _claim(
    stages: Stages, id: str, text: str, holds: Callable[..., bool], *read: tuple[str, str], gated: bool = True
) -> Claim | None:
    """The claim decided on the values of these (stage, metric) pairs; None when the run lacks one of them."""
    if any(metric not in stages.get(stage, {}) for stage, metric in read):
        return None
    values = [stages[stage][metric]["value"] for stage, metric in read]
    figures = {f"{stage} {metric}": value for (stage, metric), value in zip(read, values, strict=True)}
    return Claim(id, text, holds(*values), figures, gated)
