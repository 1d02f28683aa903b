"""The optimizer in the host's memory: the same bits, the same checkpoints, and what it holds where."""

from __future__ import annotations

import torch
from tests.train.conftest import tiny_network, tiny_tokenizer
from tests.train.test_policy import EXAMPLES, imitation, train

from thinkery.engine.vllm import VllmConfig
from thinkery.model.lora import Lora
from thinkery.model.transformer import Shape
from thinkery.pipeline.artifact import Model
from thinkery.recipes.cluster import Gpu, estimate
from thinkery.recipes.plan import Machine, learning_need, parameters
from thinkery.stages.reinforce import Reinforce, samples_here
from thinkery.train.batch import pack
from thinkery.train.grpo import Grpo
from thinkery.train.held import copied_bytes, held_bytes
from thinkery.train.offload import OffloadedPolicy
from thinkery.train.policy import PolicyConfig, open_policy

SETTINGS = {"lr": 1e-2, "schedule": "cosine", "warmup": 2, "weight_decay": 0.1}


def offloaded(seed: int = 0) -> OffloadedPolicy:
    return OffloadedPolicy(tiny_network(seed), tiny_tokenizer(), PolicyConfig(offload="cpu", **SETTINGS))


def same(ours, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.network.parameters(), theirs.network.parameters(), strict=True))


def test_off_loaded_weights_learn_bit_for_bit_and_either_continues_the_others_checkpoint(make_policy, tmp_path):
    plain, host = make_policy(**SETTINGS), offloaded()
    train(plain, 3)
    train(host, 3)
    assert same(plain, host)
    (tmp_path / "host").mkdir()
    host.save(tmp_path / "host")
    plain.save(tmp_path)
    train(plain, 3)
    again, back = offloaded(seed=9), make_policy(seed=9, **SETTINGS)
    again.load(tmp_path)
    back.load(tmp_path / "host")
    train(again, 3)
    train(back, 3)
    assert same(plain, again)
    assert same(plain, back)


def test_a_checkpoint_reaches_an_accelerator_through_the_hosts_memory(make_policy, tmp_path):
    """There is none here, so what asked for it would fail; the file is mapped, and gone before the next update."""
    plain, again = make_policy(**SETTINGS), offloaded(seed=9)
    train(plain, 3)
    plain.save(tmp_path)
    again.device = torch.device("cuda", 0)
    again.load(tmp_path)
    (tmp_path / "learner.pt").unlink()
    again.device = torch.device("cpu")
    moments = [x for state in again.optimizer.state.values() for x in state.values()]
    assert {x.device.type for x in moments} == {"cpu"}
    train(plain, 3)
    train(again, 3)
    assert same(plain, again)


def test_a_copy_that_engines_sample_from_counts_on_a_gpu(monkeypatch):
    """In bfloat16 beside weights in float32, also adapters' and off-loaded ones; float32 needs none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    narrow = {"weights": "bfloat16", "dtype": "bfloat16", "betas": (0.9, 0.95)}
    assert [copied_bytes(PolicyConfig(), s) for s in (0, 2, 4)] == [0, 2, 0]
    assert [copied_bytes(PolicyConfig(**narrow), s) for s in (0, 2, 4)] == [0, 2, 4]
    assert held_bytes(PolicyConfig(), 1, sampled=2, copied=2) == (18, 0)
    assert held_bytes(PolicyConfig(offload="cpu"), 1, copied=2) == (10, 12)
    assert held_bytes(PolicyConfig(lora=Lora(rank=2)), 1, copied=2) == (6, 0)


def test_engines_elsewhere_have_their_copy_elsewhere():
    """On a GPU a copy counts for the built-in engine of the learner's process alone."""
    elsewhere = ({"vllm": VllmConfig()}, {"engine": {"processes": 1}}, {"engine": {"ray": "auto"}})
    assert samples_here(Reinforce())
    assert not any(samples_here(Reinforce.model_validate(settings)) for settings in elsewhere)


def test_the_gradient_of_a_skipped_update_is_not_added_to_the_next(make_policy):
    plain, host = make_policy(**SETTINGS), offloaded()
    for policy in (plain, host):
        objective = imitation(policy, EXAMPLES)

        def broken(batch, objective=objective):
            loss, sums = objective(batch)
            return loss * float("inf"), sums

        assert policy.update(lambda n: pack(EXAMPLES, n), broken, total=10).skipped
        train(policy, 2)
    assert same(plain, host)


def test_the_setting_opens_it_and_adapters_win(run, folder):
    for lora, expected in ((None, OffloadedPolicy), (Lora(rank=2), None)):
        with open_policy(run, Model(folder, {"folder": "."}), PolicyConfig(offload="cpu", lora=lora)) as policy:
            assert isinstance(policy, OffloadedPolicy) == (expected is OffloadedPolicy)


def test_what_is_held_where():
    assert held_bytes(PolicyConfig(), 1) == held_bytes(PolicyConfig(), 1, sampled=4) == (16, 0)
    assert held_bytes(PolicyConfig(offload="cpu"), 1) == (8, 12)
    assert held_bytes(PolicyConfig(offload="cpu"), 1, sampled=4) == (8, 12)
    parts = (2, 3, 16, 64)  # 16 // 64 would be nothing
    assert [held_bytes(PolicyConfig(), n) for n in parts] == [(8, 0), (16 / 3, 0), (1, 0), (0.25, 0)]
    assert [held_bytes(PolicyConfig(), n, sampled=4)[0] for n in parts] == [12, 4 + 16 / 3, 5, 4.25]
    host = PolicyConfig(offload="cpu")
    assert [held_bytes(host, n) for n in parts] == [(0, 8), (0, 16 / 3), (0, 1), (0, 0.25)]
    assert [held_bytes(host, n, sampled=2) for n in parts] == [(2, 8), (2, 16 / 3), (2, 1), (2, 0.25)]
    for offload in ("none", "cpu"):
        adapters = PolicyConfig(lora=Lora(rank=2), offload=offload)  # type: ignore[arg-type]
        assert {held_bytes(adapters, n, sampled=s) for n in (1, 2, 16, 64) for s in (0, 4)} == {(4, 0)}


def test_plans_count_it():
    shape = Shape("qwen2", 1000, 64, 128, 2, 4, 2, 16)
    machine = Machine(flops=1e9, bandwidth=1e9, latency_s=1e-6, memory=1e9, disk=1e9)
    needs = [
        learning_need("sft", shape, PolicyConfig(offload=offload), machine, 1e4, 10).memory  # type: ignore[arg-type]
        for offload in ("none", "cpu")
    ]
    assert needs[1] - needs[0] == 4 * parameters(shape)
    large = Shape("qwen2", 152064, 3584, 18944, 28, 28, 4, 128)
    here, there = (
        estimate(
            Reinforce(
                grpo=Grpo(
                    policy=PolicyConfig(
                        sharding="fsdp", activations="recomputed", offload=offload,  # type: ignore[arg-type]
                    ),
                    max_tokens=((0, 8192),),
                )
            ),
            large, Gpu(), 2, 0.01,
        )
        for offload in ("none", "cpu")
    )  # fmt: skip
    assert (here.fits, there.fits) == (False, True)  # 4 + 20 / 2 bytes a parameter of 7.1e9 beside 80e9, or 4 alone
