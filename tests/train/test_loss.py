from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from thinkery.train.loss import Totals, advantages, grpo_loss, k3, truncated_weights

LENGTHS = (5, 1, 7, 3)
TOTALS = Totals(responses=6, tokens=30, max_tokens=11)


def random_case(seed: int):
    """Log-probabilities far enough apart that every kind of clipping happens; advantages of either sign."""
    draw = torch.Generator().manual_seed(seed)
    count = sum(LENGTHS)
    now = (-2 * torch.rand(count, generator=draw, dtype=torch.float64)).requires_grad_()
    old = now.detach() + 0.4 * torch.randn(count, generator=draw, dtype=torch.float64)
    reference = now.detach() + 0.4 * torch.randn(count, generator=draw, dtype=torch.float64)
    each = torch.tensor([1.5, -0.7, -1.2, 0.4], dtype=torch.float64)
    return now, old, reference, each.repeat_interleave(torch.tensor(LENGTHS))


def plain_grpo(now, old, reference, gain, *, low, high, beta, ratio, average, unbiased, bound):
    """GRPO in NumPy, one response and one token at a time, as the papers write it."""
    total = 0.0
    ends = np.cumsum(LENGTHS)
    for start, end in zip(ends - LENGTHS, ends, strict=True):
        drift = now[start:end] - old[start:end]
        dropped = bound is not None and gain[start] < 0 and np.mean(-drift) > bound
        response = 0.0
        for t in range(end - start):
            token = np.exp(drift[t])
            r = np.exp(np.mean(drift)) if ratio == "sequence" else token
            clipped = min(max(r, 1 - low), 1 + high)
            earned = min(r * gain[start], clipped * gain[start])
            if ratio == "clipped_weight":
                earned = clipped * gain[start] * now[start + t]
            away = reference[start + t] - now[start + t]
            kl = (np.exp(away) - away - 1) * (token if unbiased else 1)
            response += beta * kl - (0.0 if dropped else earned)
        total += response / {"response": (end - start) * 6, "token": 30, "constant": 6 * 11}[average]
    return total


MODES = list(
    itertools.product(("token", "sequence", "clipped_weight"), ("response", "token", "constant"), (False, True))
)


@pytest.mark.parametrize(("ratio", "average", "unbiased"), MODES)
@pytest.mark.parametrize(("clips", "bound"), [((0.2, 0.3), None), ((10.0, 10.0), None), ((0.2, 0.2), 0.05)])
def test_the_loss_is_the_papers_formula_written_out(ratio, average, unbiased, clips, bound):
    now, old, reference, gain = random_case(1)
    loss, _ = grpo_loss(
        now, old, reference, gain, LENGTHS, TOTALS, clip_low=clips[0], clip_high=clips[1], beta=0.3, ratio=ratio,
        average=average, unbiased_kl=unbiased, off_policy_bound=bound,
    )  # fmt: skip
    others = (old.numpy(), reference.numpy(), gain.numpy())
    settings = {
        "low": clips[0],
        "high": clips[1],
        "beta": 0.3,
        "ratio": ratio,
        "average": average,
        "unbiased": unbiased,
        "bound": bound,
    }
    point = now.detach().numpy()
    assert loss.item() == pytest.approx(plain_grpo(point, *others, **settings), abs=1e-12)

    (slope,) = torch.autograd.grad(loss, now)
    if ratio == "clipped_weight":
        return  # its weight is held constant, so differences of the value are not its gradient; see below
    for t in range(len(point)):
        up, down = point.copy(), point.copy()
        up[t], down[t] = up[t] + 1e-6, down[t] - 1e-6
        measured = plain_grpo(up, *others, **settings) - plain_grpo(down, *others, **settings)
        assert slope[t].item() == pytest.approx(measured / 2e-6, abs=1e-7)


def test_a_clipped_weight_is_a_constant_factor_of_the_gradient():
    now, old, _, gain = random_case(2)
    loss, _ = grpo_loss(now, old, None, gain, LENGTHS, TOTALS, ratio="clipped_weight", average="token", beta=0.0)
    (slope,) = torch.autograd.grad(loss, now)
    torch.testing.assert_close(slope, -(now - old).exp().clamp(0.8, 1.2).detach() * gain / 30)


def test_micro_batches_add_up_to_the_loss_of_the_whole_update():
    now, old, reference, gain = random_case(3)
    whole, _ = grpo_loss(now, old, reference, gain, LENGTHS, TOTALS)
    first, _ = grpo_loss(now[:6], old[:6], reference[:6], gain[:6], LENGTHS[:2], TOTALS)
    second, _ = grpo_loss(now[6:], old[6:], reference[6:], gain[6:], LENGTHS[2:], TOTALS)
    torch.testing.assert_close(first + second, whole)


def test_a_wide_clip_stops_only_good_tokens_that_rose_above_it():
    now = torch.tensor([3.0, 3.0, -5.0], requires_grad=True)  # ratios 20, 20 and 0.007
    gain = torch.tensor([1.0, -1.0, -1.0])
    loss, sums = grpo_loss(
        now, torch.zeros(3), None, gain, (1, 1, 1), Totals(3, 3, 1), clip_low=10.0, clip_high=10.0, beta=0.0
    )
    (slope,) = torch.autograd.grad(loss, now)
    assert slope[0] == 0
    assert (slope[1:] > 0).all()
    assert (sums["clip_low"].item(), sums["clip_high"].item()) == (0, 1)
    assert "kl" not in sums, "there is no reference, so nothing was measured"


def test_on_policy_the_gradient_is_the_advantage_and_the_kl_is_zero():
    now = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss, sums = grpo_loss(now, now.detach(), now.detach(), torch.tensor([2.0, -1.0]), (1, 1), Totals(2, 2, 1))
    (slope,) = torch.autograd.grad(loss, now)
    assert slope.tolist() == [-1.0, 0.5]
    assert sums["kl"].item() == 0.0


def test_importance_weights_are_truncated_and_scale_the_policy_term():
    weights = truncated_weights(torch.tensor([0.0, 1.0, -1.0]), torch.zeros(3), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 0.36787944]))
    now = torch.zeros(3, requires_grad=True)
    loss, _ = grpo_loss(now, torch.zeros(3), None, torch.ones(3), (3,), Totals(1, 3, 3), weights_C=weights)
    (slope,) = torch.autograd.grad(loss, now)
    torch.testing.assert_close(slope, -weights / 3)


def test_k3_is_never_negative_and_unbiased():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    each = k3(p.log(), q.log())
    assert (each >= 0).all()
    torch.testing.assert_close((p * each).sum(), (p * (p / q).log()).sum())


def test_advantages_of_one_right_in_four():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0])
    third = 1 / 3**0.5
    expected = {
        "group_std": [3**0.5, -third, -third, -third],  # (1 - 1/4) / sqrt(3/16)
        "group_mean": [0.75, -0.25, -0.25, -0.25],
        "rloo": [1.0, -1 / 3, -1 / 3, -1 / 3],
    }
    for mode, values in expected.items():
        torch.testing.assert_close(advantages(rewards, mode), torch.tensor(values, dtype=torch.float64))


def test_equal_rewards_give_no_advantage_even_where_their_mean_is_rounded():
    assert advantages(torch.tensor([0.1 + 0.2] * 7, dtype=torch.float64)).tolist() == [0.0] * 7
    assert advantages(torch.tensor([1.0])).tolist() == [0.0]


def test_the_bound_counts_how_far_the_policy_is_from_what_sampled():
    now, sampler = torch.full((3,), -5.0), torch.full((3,), -1.0)
    for given, dropped in ((None, 0), (sampler, 3)):
        _, sums = grpo_loss(now, now, None, -torch.ones(3), [3], Totals(1, 3, 3), off_policy_bound=0.1, sampler_C=given)
        assert sums["dropped"] == dropped
