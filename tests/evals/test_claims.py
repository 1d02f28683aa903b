"""The paper's claims on made-up stage tables."""

from thinkery.evals.claims import check_claims


def stages(**values):
    return {
        name.replace("_", "-"): {metric: {"value": v, "low": v, "high": v, "n": 9} for metric, v in metrics.items()}
        for name, metrics in values.items()
    }


def verdicts(table):
    return {claim.id: claim.holds for claim in check_claims(table)}


def test_zero_must_reach_three_times_the_base_and_only_that_claim_is_gated():
    enough, short = (
        stages(base={"pass@1": 0.2}, zero={"pass@1": 0.6}),
        stages(base={"pass@1": 0.2}, zero={"pass@1": 0.5}),
    )
    (claim,) = check_claims(enough)
    assert (claim.id, claim.holds, claim.gated) == ("zero-multiplies", 3 * 0.2 <= 0.6, True)
    assert claim.figures == {"base pass@1": 0.2, "zero pass@1": 0.6}
    assert verdicts(short) == {"zero-multiplies": False}


def test_a_zero_that_learned_nothing_does_not_triple_a_base_of_nothing():
    assert verdicts(stages(base={"pass@1": 0.0}, zero={"pass@1": 0.0})) == {"zero-multiplies": False}


def test_every_claim_is_decided_on_its_own_two_stages():
    table = stages(
        base={"pass@1": 0.1},
        zero={"pass@1": 0.9, "language": 0.8},
        cold_start={"pass@1": 0.7, "language": 0.8},
        reason={"pass@1": 0.6, "general": 0.2},
        refine={"general": 0.5, "preference": 3.0},
        align={"preference": 3.5},
        student={"pass@1": 0.1},
        distill={"pass@1": 0.1},
    )
    assert verdicts(table) == {
        "zero-multiplies": True,
        "cold-start-readable": True,
        "reason-restores": False,
        "refine-generalises": True,
        "align-preferred": True,
        "distill-teaches": False,
    }


def test_claims_about_absent_stages_are_left_out():
    assert check_claims(stages(base={"pass@1": 0.1}, distill={"pass@1": 0.5})) == []
