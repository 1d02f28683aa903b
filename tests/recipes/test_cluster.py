"""The simulation of RL on many GPUs: arithmetic that can be done by hand, and what must follow from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from thinkery.model.transformer import Shape
from thinkery.recipes.cluster import SIZES, Gpu, draw_lengths, estimate, flown, sampling_s
from thinkery.recipes.plan import PROMPT_TOKENS, cache_bytes, parameters
from thinkery.stages.reinforce import Reinforce
from thinkery.train.grpo import Grpo

SHAPE = Shape("qwen2", 151936, 1536, 8960, 28, 12, 2, 128)
CFG = Reinforce(grpo=Grpo(updates=100, questions_per_update=32, group_size=16, max_tokens=((0, 32768),)))


def test_one_sample_reads_the_weights_for_every_token():
    gpu = Gpu(flops=1e18, bandwidth=1e12, latency_s=0.0)
    cached = cache_bytes(SHAPE) * (PROMPT_TOKENS + 50)
    assert sampling_s([100], 4, SHAPE, gpu) == pytest.approx(100 * (4 * parameters(SHAPE) + cached) / 1e12)


def test_samples_wait_for_a_place_and_those_beside_each_other_share_the_reading():
    gpu = Gpu(flops=1e30, bandwidth=1e30, latency_s=1.0)  # only the number of tokens in a row counts
    assert sampling_s([10, 30, 5], 3, SHAPE, gpu) == pytest.approx(30)
    assert sampling_s([10, 30, 5], 2, SHAPE, gpu) == pytest.approx(30)
    assert sampling_s([10, 30, 25], 2, SHAPE, gpu) == pytest.approx(35)
    assert sampling_s([10, 30, 5], 1, SHAPE, gpu) == pytest.approx(45)


def test_lengths_have_the_mean_asked_for_and_a_long_tail():
    lengths = draw_lengths(20_000, 1000, 100_000)
    assert sum(lengths) / len(lengths) == pytest.approx(1000, rel=0.03)
    assert sorted(lengths)[-200] > 4000


def test_more_gpus_are_faster_and_less_used_until_the_longest_samples_are_all_that_is_left():
    found = [estimate(CFG, SHAPE, Gpu(), gpus, fill=0.25) for gpus in SIZES]
    assert found[0].update_s > 1.3 * found[-1].update_s
    assert found[0].utilisation > 10 * found[-1].utilisation
    assert found[-1].limit == "the longest samples"
    assert all(one.memory <= 80e9 for one in found)
    assert found[0].cost == pytest.approx(found[0].hours * 8 * 2.5)


def test_an_update_is_as_much_shorter_as_more_questions_are_in_flight():
    gpu = Gpu(flops=1e30, bandwidth=1e30, network=1e30, memory=1e15, latency_s=1.0)  # tokens in a row alone count
    loop = CFG.grpo.model_copy(update={"span": 1024})
    rows = {}
    for spare in (0, 32, 96):
        cfg = CFG.model_copy(update={"grpo": loop.model_copy(update={"spare": spare})})
        rows[spare] = estimate(cfg, SHAPE, gpu, 8, fill=0.25).update_s
    assert rows[0] == pytest.approx(32768, rel=0.01)  # one of 512 samples is as long as any may be
    drawn = draw_lengths(512 * 16, 8192, 32768)
    stays = [1024 * -(-max(drawn[n : n + 16]) // 1024) for n in range(0, len(drawn), 16)]
    for spare in (
        32,
        96,
    ):  # Little's law: 32 end in an update, at whose start 32 + spare are in flight, at its end spare
        assert rows[spare] == pytest.approx(sum(stays) / len(stays) * 32 / (spare + 16), rel=0.05)


def test_what_is_in_flight_is_what_the_loop_would_have():
    loop = Grpo(group_size=1, questions_per_update=2, spare=1, span=4, max_tokens=((0, 16),))
    first, second, *_ = flown(loop, 8, 16)
    lengths = draw_lengths((16 * 2 + 1), 8, 16)
    assert first[0] == [min(length, 4) for length in lengths[:3]]
    landed = sorted(-(-length // 4) for length in lengths[:3])[1]  # spans until two of three have ended
    assert len(first) == landed
    assert len(second[0]) <= 3


def test_weights_that_do_not_fit_a_gpu_are_said_to_be_the_limit():
    wide = replace(SHAPE, hidden_size=5120, intermediate_size=27648, num_hidden_layers=64)
    found = estimate(CFG, wide, Gpu(), 64, fill=0.25)
    assert (found.limit, found.fits) == ("memory", False)
    assert found.memory > 4 * parameters(wide)
