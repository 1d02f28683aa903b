from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from thinkery.core import Completion, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.rewards.rubric import Rubric
from thinkery.train.batch import Example, pack
from thinkery.train.grpo import Grpo, grpo
from thinkery.train.loss import Totals, grpo_loss
from thinkery.train.policy import PolicyConfig
from thinkery.train.ppo import Critic, CriticConfig, explained, gae, token_rewards, value_loss

TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(6)]
LENGTHS = (5, 1, 7)


def random_attempts(seed: int = 0) -> list[Example]:
    """Three attempts with old and reference log-probabilities near each other."""
    draw = np.random.default_rng(seed)
    return [
        Example(
            draw.integers(0, 256, 3 + n), learn_from=3, reward=float(n % 2), old=(old := -draw.random(n)).tolist(),
            reference=(old + 0.2 * draw.standard_normal(n)).tolist(), values=draw.random(n), returns=draw.random(n),
        )
        for n in LENGTHS
    ]  # fmt: skip


@pytest.mark.parametrize("gae_lambda", [1.0, 0.95, 0.5, 0.0])
def test_an_advantage_is_the_weighted_sum_of_all_later_surprises(gae_lambda):
    draw = np.random.default_rng(1)
    rewards, values = draw.standard_normal(9), draw.standard_normal(9)
    after = [*values[1:], 0.0]
    surprises = [rewards[t] + after[t] - values[t] for t in range(9)]
    expected = [sum(gae_lambda ** (s - t) * surprises[s] for s in range(t, 9)) for t in range(9)]
    np.testing.assert_allclose(gae(rewards, values, gae_lambda), expected, atol=1e-12)


def test_with_lambda_1_the_return_is_what_is_still_earned_and_with_0_one_step_of_it():
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.25, 0.75])
    assert gae(rewards, values, 1.0).tolist() == [0.5, 0.75, 0.25]
    assert (gae(rewards, values, 1.0) + values).tolist() == [1.0, 1.0, 1.0]
    assert gae(rewards, values, 0.0).tolist() == [-0.25, 0.5, 0.25]


def test_each_token_pays_for_its_distance_from_the_reference_and_the_last_one_earns():
    assert token_rewards(2.0, (-1.0, -2.0), (-1.5, -1.5), beta=0.1) == pytest.approx([-0.05, 2.05])
    assert token_rewards(2.0, (-1.0, -2.0), (), beta=0.0).tolist() == [0.0, 2.0]


def test_a_value_learns_half_the_squared_error_until_it_has_moved_by_the_clip():
    now = torch.tensor([0.5, 0.5, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([0.4, 0.4, 0.4, 0.4], dtype=torch.float64)
    returns = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    loss, clipped = value_loss(now, old, returns, clip=0.2)
    # near its return (0.9 -> 1.0) but too far from where it was, the third counts as 0.6; the fourth moved away
    assert loss.tolist() == pytest.approx([0.125, 0.125, 0.08, 0.405])
    (slope,) = torch.autograd.grad(loss.sum(), now)
    assert slope.tolist() == pytest.approx([-0.5, 0.5, 0.0, -0.9])
    assert clipped.tolist() == [False, False, True, False]


def test_the_policys_loss_and_gradient_are_ppos_written_out_token_by_token():
    attempts = [
        replace(e, advantage=gae(token_rewards(e.reward, e.old, (), 0.0), np.array(e.values), 0.95))
        for e in random_attempts()
    ]
    (batch,) = pack(attempts, 1000)
    assert batch.old_C is not None
    assert sorted(batch.learnt) == sorted(LENGTHS)
    now = (batch.old_C + 0.3 * torch.randn(13, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss, _ = grpo_loss(now, batch.old_C, None, batch.advantages_C, batch.learnt, Totals(3, 13, 9), beta=0.0)
    (slope,) = torch.autograd.grad(loss, now)

    expected, at = torch.zeros(()), 0
    again = now.detach().clone().requires_grad_()
    for place in batch.examples:
        advantages = np.asarray(attempts[place].advantage)
        for gain in advantages:
            ratio = (again[at] - batch.old_C[at]).exp()
            earned = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
            expected, at = expected - earned / len(advantages) / 3, at + 1
    (reference,) = torch.autograd.grad(expected, again)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(slope, reference, atol=1e-6, rtol=1e-5)


def test_the_critics_gradient_is_that_of_every_sequence_alone(make_policy):
    critic = Critic(make_policy(), CriticConfig(value_clip=1e3), beta=0.0, temperature=1.0)
    torch.nn.init.normal_(critic.network.head.weight, generator=torch.Generator().manual_seed(1))
    attempts = random_attempts()
    loss, sums = critic.backward(pack(attempts, 12), critic.objective(sum(LENGTHS)))
    packed = {name: p.grad.clone() for name, p in critic.network.named_parameters() if p.grad is not None}
    assert sums == {"clipped": 0.0}

    critic.network.zero_grad()
    total = torch.zeros(())
    for e in attempts:
        tokens = torch.as_tensor(np.asarray(e.tokens))
        hidden = critic.network.network.packed(tokens, [len(tokens)])[e.learn_from - 1 : -1]
        values = critic.network.head(hidden)[:, 0]
        total = total + ((values - torch.tensor(e.returns, dtype=torch.float32)) ** 2).sum() / 2
    (total / sum(LENGTHS)).backward()
    assert loss == pytest.approx(total.item() / sum(LENGTHS), rel=1e-5)
    alone = {name: p.grad for name, p in critic.network.named_parameters() if p.grad is not None}
    assert packed.keys() == alone.keys()
    for name, slope in alone.items():
        torch.testing.assert_close(packed[name], slope, atol=1e-5, rtol=1e-4)


def test_a_new_critic_expects_nothing_so_every_token_gets_the_reward_less_the_later_kl(make_policy):
    policy = make_policy()
    policy.refresh_reference()
    with torch.no_grad():
        policy.network.lm_head.weight += 0.05
    critic = Critic(policy, CriticConfig(), beta=0.5, temperature=0.7)
    first, second, third = random_attempts()
    groups = critic.compare([[first, second], [third]])
    assert [len(group) for group in groups] == [2, 1]
    for attempt in (e for group in groups for e in group):
        (reference,) = policy.logprobs([attempt], 0.7, reference=True)
        assert attempt.reference == reference
        paid = -0.5 * (np.array(attempt.old) - np.array(reference))
        expected = [attempt.reward + paid[t:].sum() for t in range(attempt.learnt)]
        np.testing.assert_allclose(attempt.advantage, expected, atol=1e-12)
        np.testing.assert_array_equal(attempt.returns, attempt.advantage)


def test_the_explained_share_is_1_for_perfect_values_and_0_for_constant_ones():
    perfect = Example([1, 2, 3], values=[1.0, 3.0], returns=[1.0, 3.0])
    constant = Example([1, 2, 3], values=[2.0, 2.0], returns=[1.0, 3.0])
    assert (explained([perfect]), explained([constant])) == (1.0, 0.0)
    assert explained([Example([1, 2], values=[2.0], returns=[1.0])]) == 0.0


def low(task: Task, completion: Completion) -> float:
    """The share of tokens in the lower half of the vocabulary: something a random model can learn quickly."""
    return sum(token < 128 for token in completion.tokens) / 5


@pytest.mark.parametrize("group_size", [8, 1])
def test_ppo_learns_what_is_rewarded_even_from_single_attempts(group_size, make_policy, run):
    cfg = Grpo(
        policy=PolicyConfig(lr=2e-2), updates=15, group_size=group_size, questions_per_update=16 // group_size,
        minibatches=1, max_tokens=((0, 5),), preflight=0, advantage="gae", critic=CriticConfig(lr=1e-2), beta=0.01,
    )  # fmt: skip
    policy = make_policy(lr=2e-2)
    with open_engine(policy.network, policy.tokenizer, EngineConfig(max_batch=32, max_len=64)) as engine:
        grpo(run, cfg, policy, engine, TASKS, Rubric(low=low))
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward/mean"] for row in rows]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    assert rows[-1]["value/loss"] < rows[0]["value/loss"]
    assert rows[0]["value/explained"] == pytest.approx(0.0, abs=1e-9)
    assert {"value/grad_norm", "value/clipped", "policy/kl"} <= rows[0].keys()
    assert ("group/no_spread" in rows[0]) == (group_size > 1)
    assert rows[0]["advantage/abs_mean"] > 0.3
