"""Sampling, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from thinkery.core import Sampling
from thinkery.engine.native.sampler import LIKELIEST, draw, inverse_cdf, mix, nucleus, uniforms

P = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2])
LOGITS = P.log()[None]


def one(sampling: Sampling, u: float, allowed=None) -> tuple[int, float]:
    tokens, logprobs = draw(LOGITS, [sampling], np.array([u]), [allowed])
    return tokens.item(), logprobs.item()


def test_a_draw_takes_the_token_in_whose_stretch_of_the_cumulative_sum_it_falls():
    draws = torch.tensor([[0.0], [0.0999], [0.1001], [0.4999], [0.5001], [0.7999], [0.8001], [1 - 2**-53]])
    draws = draws.double()
    assert inverse_cdf(P.expand(8, -1), draws).tolist() == [0, 0, 1, 1, 3, 3, 4, 4]


def test_the_largest_draw_never_takes_a_token_of_probability_zero():
    p = torch.tensor([[0.3, 0.7, 0.0, 0.0]])
    assert inverse_cdf(p, torch.tensor([[1 - 2**-53]], dtype=torch.float64)).item() == 1


def test_a_draw_from_a_large_vocabulary_is_the_one_of_its_plain_cumulative_sum():
    p = torch.randn(64, 1001, generator=torch.Generator().manual_seed(1)).mul(3).softmax(-1)
    draws = torch.from_numpy(uniforms(range(64), [0] * 64))[:, None]
    plain = torch.searchsorted(p.double().cumsum(-1), draws, right=True)[:, 0]
    assert inverse_cdf(p, draws).tolist() == plain.tolist()


def test_no_draw_takes_a_token_of_probability_zero_at_the_border_of_a_block():
    p = torch.zeros(1, 400)
    p[0, [5, 130, 390]] = torch.tensor([0.1, 0.2, 0.7])
    borders = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    draws = torch.cat([(borders + e).clamp(0, 1 - 2**-53) for e in (-1e-8, -1e-16, 0, 1e-16, 1e-8)])
    draws = torch.cat([draws, torch.tensor([1 - 2**-53], dtype=torch.float64)])[:, None]
    assert set(inverse_cdf(p.expand(len(draws), -1), draws).tolist()) == {5, 130, 390}


def test_the_mixing_function_is_splitmix64():
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * golden) % 2**64 for i in (1, 2, 3)], np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_depend_on_seed_and_position_alone_and_look_uniform():
    seeds, positions = np.repeat(np.arange(200), 200), np.tile(np.arange(200), 200)
    u = uniforms(seeds, positions)
    assert u[7 * 200 + 5] == uniforms([7], [5])[0]
    assert len(np.unique(u)) == len(u)
    counts = np.histogram(u, 20, (0, 1))[0]
    chi2 = ((counts - 2000) ** 2 / 2000).sum()
    assert chi2 < 50  # 19 degrees of freedom: p < 1e-4 beyond
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02


def test_frequencies_of_many_draws_are_the_probabilities():
    u = uniforms(range(20000), [0] * 20000)
    tokens, _ = draw(LOGITS.expand(20000, -1), [Sampling()] * 20000, u, [None] * 20000)
    shares = tokens.bincount(minlength=5) / 20000
    assert torch.allclose(shares, P, atol=0.012)


def test_temperature_sharpens_the_choice_and_its_log_probability():
    # p^2 normalised: 0.01, 0.16, 0, 0.09, 0.04 over 0.30
    token, logprob = one(Sampling(temperature=0.5), 0.6)
    assert token == 3
    assert logprob == pytest.approx(math.log(0.09 / 0.30), abs=1e-5)


def test_temperature_zero_takes_the_likeliest_with_its_plain_log_probability():
    token, logprob = one(Sampling(temperature=0.0), 0.999)
    assert token == 1
    assert logprob == pytest.approx(math.log(0.4), abs=1e-5)


def test_top_p_keeps_the_likeliest_until_their_sum_reaches_it():
    kept = nucleus(P[None], [Sampling(top_p=0.65)])
    assert kept.tolist() == [[0.0, pytest.approx(0.4), 0.0, pytest.approx(0.3), 0.0]]


def test_top_k_keeps_k_tokens_and_both_cuts_work_together():
    assert (nucleus(P[None], [Sampling(top_k=3)]) > 0).tolist() == [[False, True, False, True, True]]
    # of 0.4, 0.3 and 0.2 the first is less than half of their sum, 0.45, though not less than 0.4
    assert (nucleus(P[None], [Sampling(top_k=3, top_p=0.4)]) > 0).tolist() == [[False, True, False, False, False]]
    assert (nucleus(P[None], [Sampling(top_k=3, top_p=0.5)]) > 0).tolist() == [[False, True, False, True, False]]
    # 0.4 is more than 0.55 of 0.7, so that a second token is not asked for
    assert (nucleus(P[None], [Sampling(top_k=2, top_p=0.55)]) > 0).tolist() == [[False, True, False, False, False]]


@pytest.mark.parametrize("sampling", [Sampling(top_p=0.9), Sampling(top_p=0.9999), Sampling(top_k=LIKELIEST + 5)])
def test_cuts_of_a_large_vocabulary_are_those_of_sorting_it_whole(sampling):
    p = torch.randn(8, 3000, generator=torch.Generator().manual_seed(2)).mul(2).softmax(-1)
    for row, kept in zip(p, nucleus(p, [sampling] * 8) > 0, strict=True):
        order = row.argsort(descending=True)
        before = row[order].double().cumsum(-1) - row[order].double()
        expected = order[: sampling.top_k or 3000][before[: sampling.top_k or 3000] < sampling.top_p]
        assert abs(kept.sum().item() - len(expected)) <= 1  # float32 sums may shift the border by a token
        assert kept[expected[:-1]].all()


def test_cuts_change_the_draw_but_not_the_recorded_log_probability():
    token, logprob = one(Sampling(top_k=1), 0.999)
    assert token == 1
    assert logprob == pytest.approx(math.log(0.4), abs=1e-5)


def test_rows_of_one_batch_keep_their_own_settings():
    settings = [Sampling(), Sampling(top_k=1), Sampling(temperature=0)]
    tokens, _ = draw(LOGITS.expand(3, -1), settings, np.full(3, 0.95), [None] * 3)
    assert tokens.tolist() == [4, 1, 1]


def test_a_mask_limits_the_draw_even_to_tokens_of_tiny_probability():
    assert one(Sampling(), 0.5, [0, 4])[0] == 4  # 0.1 and 0.2: the border is at a third
    assert one(Sampling(), 0.3, [0, 4])[0] == 0
    far = torch.tensor([[0.0, -200.0, -201.0]])
    tokens, logprobs = draw(far, [Sampling()], np.array([0.5]), [[1, 2]])
    assert tokens.item() == 1  # e^-200 against e^-201: 0.73
    assert logprobs.item() == pytest.approx(-200)
