"""The simulation of RL on many GPUs: arithmetic that can be done by hand, and what must follow from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from thinkery.model.transformer import Shape
from thinkery.recipes.arithmetic import cache_bytes, parameters
from thinkery.recipes.cluster import SIZES, Gpu, draw_lengths, estimate, flown, learnt_tokens, phases, sampling_s, seen
from thinkery.recipes.plan import PROMPT_TOKENS
from thinkery.stages.reinforce import Reinforce
from thinkery.train.grpo import Grpo
from thinkery.train.policy import PolicyConfig

SHAPE = Shape("qwen2", 151936, 1536, 8960, 28, 12, 2, 128)
PARTS = PolicyConfig(sharding="fsdp", activations="recomputed")
CFG = Reinforce(grpo=Grpo(policy=PARTS, updates=100, questions_per_update=32, max_tokens=((0, 32768),)))
LENGTHS = [1000] * 32
"""Two groups of sixteen."""


def changed(**settings) -> Reinforce:
    """`CFG` with other settings of the policy, of the engine (`engine_dtype`) or of the loop (`beta`)."""
    engine = CFG.engine.model_copy(update={"dtype": settings.pop("engine_dtype", "model")})
    beta = settings.pop("beta", CFG.grpo.beta)
    grpo = CFG.grpo.model_copy(update={"policy": PARTS.model_copy(update=settings), "beta": beta})
    return CFG.model_copy(update={"grpo": grpo, "engine": engine})


def test_one_sample_reads_the_weights_for_every_token():
    gpu = Gpu(flops=1e18, bandwidth=1e12, latency_s=0.0, sample_s=0.0)
    cached = cache_bytes(SHAPE) * (PROMPT_TOKENS + 50)
    assert sampling_s([100], 4, SHAPE, gpu) == pytest.approx(100 * (4 * parameters(SHAPE) + cached) / 1e12)


def test_a_format_of_half_the_bytes_is_read_in_half_the_time():
    gpu = Gpu(flops=1e18, bfloat16_flops=1e18, bandwidth=1e12, latency_s=0.0, sample_s=0.0)
    cached = cache_bytes(SHAPE) * (PROMPT_TOKENS + 50)
    half = sampling_s([100], 4, SHAPE, gpu, dtype="bfloat16")
    assert half == pytest.approx(100 * (4 * parameters(SHAPE) + cached) / 2e12)


def test_a_token_costs_something_for_each_sample_and_a_groups_prompt_is_computed_once():
    gpu = Gpu(flops=1e12, bandwidth=1e18, latency_s=0.25, sample_s=0.01)
    P = parameters(SHAPE)
    assert sampling_s([100] * 4, 4, SHAPE, gpu) == pytest.approx(100 * (0.25 + 4 * (0.01 + 2 * P / 1e12)), rel=1e-4)
    found = phases(CFG, SHAPE, gpu, 1, LENGTHS, 32, prompt=128)
    sampled = sampling_s(LENGTHS, 32, SHAPE, gpu, 128)
    assert found["sampling"] == pytest.approx(sampled + 2 * 128 * 2 * P / 1e12)  # of two groups


def test_a_groups_prompt_is_learnt_once_and_tokens_stand_in_long_sequences():
    assert learnt_tokens(Grpo(group_size=4), [10] * 8, 100) == 80 + 2 * 100
    assert seen([10, 30], 10) == pytest.approx((20 * 20 + 40 * 40) / (20 + 40))


def test_learning_takes_what_the_settings_of_the_policy_say():
    gpu, P, tokens = Gpu(), parameters(SHAPE), 32 * 1000 + 2 * 128
    attention = 6 * 28 * 12 * 128 * 1128 / 3  # of one pass
    cases = {
        "kept, no reference": (changed(activations="kept", beta=0.0), 6 * P + 3 * attention, gpu.flops),
        "kept, reference": (changed(activations="kept"), 8 * P + 4 * attention, gpu.flops),
        "recomputed, reference": (changed(), 10 * P + 5 * attention, gpu.flops),
        "bfloat16": (changed(dtype="bfloat16"), 10 * P + 5 * attention, gpu.bfloat16_flops),
    }
    for name, (cfg, each, rate) in cases.items():
        found = phases(cfg, SHAPE, gpu, 8, LENGTHS, 4)
        assert found["learning"] == pytest.approx(tokens * each / rate / 8), name


def test_the_network_carries_parts_for_every_micro_batch_and_replicas_once():
    gpu, P = Gpu(network=1e9, collective_s=0.0), parameters(SHAPE)
    batches = 4  # of 1,024 tokens: a GPU has 32,256 / 8
    cases = {
        "parts": changed(micro_batch_tokens=1024),
        "no reference": changed(micro_batch_tokens=1024, beta=0.0),
        "replicas": changed(micro_batch_tokens=1024, sharding="replicated"),
    }
    found = {name: phases(cfg, SHAPE, gpu, 8, LENGTHS, 4) for name, cfg in cases.items()}
    carried = {name: one["weights and gradients"] for name, one in found.items()}
    assert carried["parts"] == pytest.approx((4 * batches + 1) * 4 * P / 1e9)
    assert carried["no reference"] == pytest.approx((3 * batches + 1) * 4 * P / 1e9)
    assert carried["replicas"] == pytest.approx(2 * 4 * P / 1e9)


def test_a_gpu_holds_the_learner_and_in_turn_activations_or_the_cache():
    P, tokens = parameters(SHAPE), 128 + 32768
    layer = 5 * 1536 + 3 * 128 * (12 + 2) + 4 * 8960
    kept, again = 4 * tokens * 28 * layer, 4 * tokens * (28 * 1536 + layer)
    logits = 12 * 2**28
    small = Gpu(memory=1e9)  # whose cache has no room for even one sample
    cases = {
        "kept": (changed(activations="kept"), (4 + 16 / 8 + 4 / 8) * P + kept + logits),
        "recomputed": (changed(), (4 + 16 / 8 + 4 / 8) * P + again + logits),
        "no reference": (changed(beta=0.0), (4 + 16 / 8) * P + again + logits),
        "replicated": (changed(sharding="replicated"), 20 * P + again + logits),
    }
    for name, (cfg, expected) in cases.items():
        found = estimate(cfg, SHAPE, small, 8, fill=0.25)
        assert found.memory == pytest.approx(expected), name
        assert (found.fits, found.limit) == (False, "memory"), name
    copied = estimate(changed(engine_dtype="bfloat16"), SHAPE, Gpu(memory=1e15), 8, fill=0.25)
    cache = 512 // 8 * tokens * 2 * 2 * 28 * 2 * 128  # of 64 samples: 62 GB, more than the activations
    assert copied.memory == pytest.approx((2 + 20 / 8) * P + cache)


def test_sequences_are_split_among_as_many_ranks_as_there_are_heads_for():
    two, eight = (estimate(changed(sequences="split"), SHAPE, Gpu(), gpus, fill=0.25) for gpus in (2, 8))
    assert two.limit != "heads"
    assert (eight.fits, eight.limit) == (False, "heads")


def test_samples_wait_for_a_place_and_those_beside_each_other_share_the_reading():
    gpu = Gpu(flops=1e30, bandwidth=1e30, latency_s=1.0, sample_s=0.0)  # only the number of tokens in a row counts
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
