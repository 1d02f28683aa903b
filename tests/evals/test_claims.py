"""The paper's claims on made-up stage tables."""

import pytest

from thinkery.evals.claims import check_claims

HELD = {
    "base": {"pass@1": 0.15, "pass@1/well-formed": 0.55},
    "zero": {"pass@1": 0.85, "language": 0.85},
    "cold-start": {"language": 0.96, "format": 0.99},
    "reason": {"pass@1": 0.84, "language": 0.98, "general": 0.05},
    "refine": {"pass@1": 0.82, "general": 0.60},
    "align": {"pass@1": 0.81, "harmless": 0.99},
    "align-vs-refine": {"wins": 0.70},
    "student": {"pass@1": 0.05},
    "distill": {"pass@1": 0.50, "train_flops": 1.0e12},
    "student-zero": {"pass@1": 0.30, "train_flops": 1.5e12},
    "direct": {"pass@1": 0.25},
    "zero-templates": {"template_spread": 0.30},
    "align-templates": {"template_spread": 0.10},
}
"""A table on which every claim holds."""


def table(**changes):
    """The table with "stage metric" set to other values."""
    stages = {
        name: {m: {"value": v, "low": v, "high": v, "n": 9} for m, v in metrics.items()}
        for name, metrics in HELD.items()
    }
    for (stage, metric), value in changes.get("of", {}).items():
        stages[stage][metric]["value"] = value
    return stages


def failing(stages):
    return [claim.id for claim in check_claims(stages) if not claim.holds]


def test_all_claims_hold_on_a_table_like_the_papers():
    claims = check_claims(table())
    assert len(claims) == 12
    assert failing(table()) == []
    assert [claim.id for claim in claims if not claim.gated] == ["distill-teaches"]


@pytest.mark.parametrize(
    ("stage", "metric", "value", "claim"),
    [
        ("base", "pass@1", 0.19, "zero-multiplies"),  # above the band
        ("base", "pass@1", 0.09, "zero-multiplies"),
        ("zero", "pass@1", 0.66, "zero-beats-own-thoughts"),  # 4.4 times the base fails the first as well
        ("zero", "language", 0.91, "zero-mixes"),
        ("cold-start", "language", 0.94, "cold-start-readable"),
        ("cold-start", "format", 0.97, "cold-start-readable"),
        ("reason", "language", 0.96, "reason-restores"),
        ("zero", "pass@1", 0.87, "reason-restores"),
        ("refine", "general", 0.24, "refine-generalises"),
        ("refine", "pass@1", 0.80, "refine-generalises"),
        ("align-vs-refine", "wins", 0.64, "align-preferred"),
        ("align", "harmless", 0.94, "align-harmless"),
        ("align", "pass@1", 0.79, "align-harmless"),
        ("distill", "pass@1", 0.04, "distill-teaches"),
        ("student-zero", "train_flops", 0.9e12, "distill-beats-rl"),  # RL had less compute: nothing is shown
        ("student-zero", "pass@1", 0.50, "distill-beats-rl"),
        ("direct", "pass@1", 0.50, "small-reasoner-wins"),
        ("align-templates", "template_spread", 0.16, "prompts-matter-less"),
    ],
)
def test_each_claim_fails_when_its_figure_is_not_reached(stage, metric, value, claim):
    assert claim in failing(table(of={(stage, metric): value}))


def test_figures_name_the_stage_and_the_metric():
    claim = next(c for c in check_claims(table()) if c.id == "zero-multiplies")
    assert claim.figures == {"base pass@1": 0.15, "zero pass@1": 0.85}


def test_a_zero_that_learned_nothing_multiplies_no_base_of_nothing():
    stages = {name: {"pass@1": {"value": 0.0, "low": 0.0, "high": 0.1, "n": 9}} for name in ("base", "zero")}
    assert failing(stages) == ["zero-multiplies"]


def test_claims_about_absent_stages_are_left_out():
    stages = table()
    assert check_claims({"base": stages["base"], "distill": stages["distill"]}) == []
