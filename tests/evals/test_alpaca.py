"""AlpacaEval 2 against its formula, and against published figures where its reference data is at hand."""

import csv
import math

import numpy as np
import pytest

from thinkery.evals.alpaca import Judgements, Reference, judged_preference, load_reference, share_won
from thinkery.evals.logistic import fit_l1, fit_l2
from thinkery.tasks.public import data_root, public_file

needs_data = pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set")

# Published for models judged by weighted_alpaca_eval_gpt4_turbo: the two weights, and the length-controlled win rate.
PUBLISHED = {
    "Shopee-SlimMoA-v1": (0.5720819653397798, 1.4939147768349581, 78.19507399322082),
    "gpt-4o-2024-05-13": (0.7970841059254213, 0.4815647498440927, 57.45682883335095),
    "claude-2": (0.9967331116898248, -1.1814326793306524, 28.155196141629148),
}


def test_a_preference_is_two_minus_the_share_of_the_first_output():
    entries = [{"token": "M", "logprob": math.log(0.6)}, {"token": "m", "logprob": math.log(0.2)}]
    assert judged_preference(entries, switched=False) == pytest.approx(1.75)
    assert judged_preference(entries, switched=True) == pytest.approx(1.25)
    assert judged_preference({"M": -1.5, "The": -0.3}, switched=False) == 2.0
    assert judged_preference({"m": -2000.0, "M": -2001.0}, switched=False) == pytest.approx(1 + 1 / (1 + math.e))
    assert judged_preference({"The": -0.1}, switched=False) is None


@pytest.mark.parametrize(("preference", "won"), [(1, 0), (2, 1), (1.25, 0.25), (0, 0.5), (1.5, 0.5)])
def test_a_preference_lies_between_one_and_two_and_zero_is_a_draw(preference, won):
    assert share_won(preference) == won


@pytest.mark.parametrize("preference", [0.5, 2.1, -1, math.nan])
def test_anything_else_is_no_preference(preference):
    with pytest.raises(ValueError, match="neither between 1 and 2"):
        share_won(preference)


def test_win_rates_of_four_judgements():
    judgements = Judgements()
    for won, length in ((0.0, 10), (0.5, 20), (0.75, 30), (1.0, 41), (None, 60)):
        judgements.add(7, won, 25, length)
    found = judgements.plain()
    assert found["win_rate"] == 56.25
    assert found["standard_error"] == pytest.approx(100 * np.std([0, 0.5, 0.75, 1], ddof=1) / 2)
    assert found["discrete_win_rate"] == 62.5  # one loss, one draw, two wins
    assert (found["avg_length"], found["n"]) == (32, 4)  # 161 / 5 characters


def test_no_judgement_has_no_rate():
    assert Judgements().plain()["win_rate"] is None
    with pytest.raises(ValueError, match="index 805"):
        Judgements().add(805, 1.0, 1, 1)


def test_the_fit_finds_the_weights_that_made_the_targets():
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(400, 3)), rng.uniform(0.5, 2, 400)
    truth = np.array([1.5, 0.0, -0.7])
    targets = 1 / (1 + np.exp(-rows @ truth))
    assert fit_l1(rows, targets, weights, 1e8) == pytest.approx(truth, abs=1e-5)
    assert fit_l2(rows, targets, weights, 1e-6) == pytest.approx(truth, abs=1e-5)


def test_a_strong_penalty_leaves_nothing_and_a_medium_one_is_optimal():
    rows, targets = np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([1.0, 1.0])
    assert (fit_l1(rows, targets, np.ones(2), 0.5) == 0).all()
    # Only the first column helps: |w| + 4 · 2 · log(1 + e^-w) is least where 8 / (1 + e^w) = 1, so w = log 7.
    assert fit_l1(rows, targets, np.full(2, 4.0), 1.0) == pytest.approx([math.log(7), 0], abs=1e-8)


def synthetic(count, bias, slope):
    """Judgements of a model that wins by `bias`, and by `slope` for how much longer the baseline is."""
    rng = np.random.default_rng(1)
    judgements, gaps = Judgements(), rng.integers(-1000, 1000, count)
    for i, gap in enumerate(gaps):
        judgements.add(
            i, 1 / (1 + math.exp(-(bias + slope * math.tanh(gap / gaps.std(ddof=1))))), 2000 + int(gap), 2000
        )
    return judgements


@pytest.mark.parametrize("source", ["official", "reconstructed"])
def test_length_control_asks_what_equally_long_outputs_would_earn(source):
    reference = Reference(np.zeros(805), np.zeros((0, 3)), np.zeros(0), source)
    found = synthetic(805, bias=0.4, slope=-1.5).length_controlled(reference)
    assert found["lc_win_rate"] == pytest.approx(100 / (1 + math.exp(-0.4)), abs=0.1)


@needs_data
@pytest.mark.parametrize("model", PUBLISHED)
def test_the_difficulties_give_published_rates_from_published_weights(model):
    w_difficulty, w_model, published = PUBLISHED[model]
    z = w_difficulty * load_reference().difficulty + w_model
    assert 100 * np.mean(1 / (1 + np.exp(-z))) == pytest.approx(published, abs=1e-5)


@needs_data
def test_a_refitted_model_comes_back_within_a_tenth_of_a_point():
    judgements = Judgements()
    with public_file("alpaca_eval2/gamed_baseline_reconstructed.csv").open() as file:
        for row in csv.DictReader(file):
            if row["model"] == "gpt4_1106_preview_verbose":
                gap = round(1000 * float(row["std_delta_len"]))
                judgements.add(int(row["index"]), float(row["preference"]), 20000 + gap, 20000)
    assert judgements.plain()["win_rate"] == pytest.approx(64.3036, abs=1e-3)
    assert judgements.length_controlled(load_reference())["lc_win_rate"] == pytest.approx(51.5750, abs=0.1)
