"""Arena-Hard against closed forms: where every model meets only the baseline, a score is its share of the battles."""

import numpy as np
import pytest

from thinkery.evals.arena import Battles, outcome, verdict

BASE = "gpt-4-0314"


def fight(battles, model, wins, ties, losses):
    for winner, times in (("model_b", wins), ("tie", ties), ("model_a", losses)):
        for _ in range(times):
            battles.add(BASE, model, winner)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("My final verdict is [[A>B]].", "A>B"),
        ("[[B>>A]] … as I said, [[B>>A]]", "B>>A"),
        ("First [[A>B]], no, [[B>A]]", None),
        ("A is better", None),
        ("[[ A>B ]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_one_label_that_a_judge_gives(text, label):
    assert verdict(text) == label


def test_much_better_counts_as_three_battles():
    assert outcome("B>>A") == (0.0, 3)
    assert outcome("model_b") == (0.0, 1)
    assert outcome("A=B") == outcome("tie") == (0.5, 1)
    with pytest.raises(ValueError, match="'C>A'"):
        outcome("C>A")


def test_a_score_against_the_baseline_is_the_share_of_battles_won():
    battles = Battles()
    fight(battles, "strong", 60, 10, 30)
    fight(battles, "weak", 10, 20, 70)
    battles.add("weak", BASE, "A>>B")
    standings = battles.standings(BASE)
    assert list(standings) == ["strong", BASE, "weak"]
    assert standings["strong"].score == pytest.approx(65.0, abs=1e-4)
    assert standings["weak"].score == pytest.approx(100 * (10 + 10 + 3) / 103, abs=1e-4)
    assert (standings[BASE].score, standings[BASE].low, standings[BASE].high) == (50, 50, 50)


def test_an_interval_is_that_of_resampled_battles():
    battles = Battles()
    fight(battles, "m", 600, 0, 400)
    found = battles.standings(BASE, rounds=400)["m"]
    reach = 1.96 * 100 * np.sqrt(0.6 * 0.4 / 1000)  # a binomial share
    assert found.low == pytest.approx(60 - reach, abs=0.6)
    assert found.high == pytest.approx(60 + reach, abs=0.6)
    assert battles.standings(BASE, rounds=400)["m"] == found


def test_models_that_meet_each_other_share_their_strength_by_bradley_terry():
    battles = Battles()
    for a, b, wins, losses in ((BASE, "m", 10, 20), ("m", "n", 10, 20), ("n", BASE, 80, 20)):
        for winner, times in (("model_a", wins), ("model_b", losses)):
            for _ in range(times):
                battles.add(a, b, winner)
    standings = battles.standings(BASE)  # odds of 2 : 1 for m, 2 : 1 for n against m, 4 : 1 for n: all agree
    assert standings["m"].score == pytest.approx(100 * 2 / 3, abs=1e-4)
    assert standings["n"].score == pytest.approx(80, abs=1e-4)


def test_a_model_that_lost_nothing_has_a_score_of_nearly_a_hundred():
    battles = Battles()
    fight(battles, "m", 50, 0, 0)
    found = battles.standings(BASE)["m"]
    assert 99.9 < found.score < 100
    assert 99.9 < found.low <= found.high <= 100


def styled(rng, longer):
    """The style of two answers, B's longer by a factor."""
    a = int(rng.integers(200, 400))
    names = [f"{kind}_count_{side}" for kind in ("header", "list", "bold") for side in "ab"]
    marks = {name: {"x": int(rng.integers(5))} for name in names}
    return {"sum_assistant_a_tokens": a, "sum_assistant_b_tokens": int(a * longer), **marks}


@pytest.mark.parametrize("style", ["length", "both"])
def test_a_style_control_takes_away_what_length_alone_explains(style):
    rng = np.random.default_rng(0)
    plain, controlled = Battles(), Battles(style)
    for _ in range(2000):
        factor = rng.uniform(0.8, 4)
        for model, longer in (("wordy", factor), ("terse", 1 / factor)):
            preferred = rng.random() < 1 / (1 + np.exp(-4 * (longer - 1) / (longer + 1)))  # by length alone
            metadata = styled(rng, longer)
            plain.add(BASE, model, "model_b" if preferred else "model_a")
            controlled.add(BASE, model, "model_b" if preferred else "model_a", metadata)
    before, after = (battles.standings(BASE, rounds=10) for battles in (plain, controlled))
    assert before["wordy"].score > 70
    assert before["terse"].score < 30
    assert after["wordy"].score == pytest.approx(50, abs=5)
    assert after["terse"].score == pytest.approx(50, abs=5)


def test_style_needs_the_features_of_both_answers():
    with pytest.raises(ValueError, match="sum_assistant_a_tokens"):
        Battles("both").add(BASE, "m", "tie")


def test_a_baseline_without_a_battle_is_refused():
    battles = Battles()
    fight(battles, "m", 1, 0, 1)
    with pytest.raises(ValueError, match=r"'gpt-5' is in no battle.*gpt-4-0314, m"):
        battles.standings("gpt-5")
