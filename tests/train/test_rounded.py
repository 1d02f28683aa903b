"""Weights in bfloat16: rounded at random to what is right on average, and otherwise what float32 does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.engine.asking import answers, moved, one_thread, requests
from tests.train.conftest import tiny_network, tiny_tokenizer
from tests.train.test_mixed import ALONE, SHARED, error, learnt, network
from tests.train.test_policy import EXAMPLES, imitation, train

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.engine.canary import text_logprobs
from thinkery.engine.pool import open_pool
from thinkery.errors import ConfigError
from thinkery.model.compiled import compiler
from thinkery.model.hf import load_model, read_config
from thinkery.model.lora import Lora
from thinkery.pipeline.artifact import Model
from thinkery.train.batch import pack, pack_shared
from thinkery.train.held import held_bytes
from thinkery.train.mixed import MixedTransformer
from thinkery.train.optim import LearnerConfig
from thinkery.train.policy import Policy, PolicyConfig, mixed, open_policy
from thinkery.train.ppo import Critic, CriticConfig
from thinkery.train.rounded import SLICE, RoundedAdamW, narrow, rounded_at_random

NARROW = {"weights": "bfloat16", "dtype": "bfloat16"}
ALL_NOISE = torch.arange(2**16, dtype=torch.int32)


@pytest.mark.parametrize(
    ("x", "below", "above", "share"),
    [
        (1.0, 1.0, 1.0, 0.0),
        (1 + 2**-9, 1.0, 1 + 2**-7, 0.25),
        (-1 - 2**-8, -1.0, -1 - 2**-7, 0.5),
        (2 - 2**-16, 2 - 2**-7, 2.0, 1 - 2**-9),
        (3e-39, None, None, None),  # subnormal
    ],
)
def test_a_number_becomes_one_of_its_neighbours_as_often_as_makes_the_mean_right(x, below, above, share):
    found = rounded_at_random(torch.full((2**16,), x), ALL_NOISE).double()
    assert float(found.mean()) == pytest.approx(float(torch.tensor(x)), rel=1e-12, abs=0)
    if below is not None:
        assert set(found.tolist()) == ({below, above} if 0 < share < 1 else {below})
        assert float((found == above).double().mean()) == (share or 1.0)


def test_steps_that_rounding_to_the_nearest_would_lose_come_out_on_average():
    weight = torch.nn.Parameter(torch.full((1024, 3 * 1024), 0.05).bfloat16())
    weight.grad_dtype = torch.float32
    start, lr = weight[0, 0].item(), 3e-6
    optimizer = RoundedAdamW([weight], lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    assert weight.numel() > 2 * SLICE  # several slices
    for step in range(1, 4):
        weight.grad = torch.full_like(weight, 0.01, dtype=torch.float32)
        optimizer.step()
        unit = 2**-12  # between neighbours at 0.05; one step is a hundredth of it
        spread = unit * (step * lr / unit / weight.numel()) ** 0.5
        assert float(weight.detach().double().mean()) == pytest.approx(start - step * lr, abs=5 * spread)
        assert 5 * spread < lr / 2
    assert torch.full((1,), start - lr).bfloat16() == start


def test_it_steps_as_adamw_does_up_to_rounding():
    torch.manual_seed(0)
    start, bias = torch.randn(64, 48).bfloat16(), torch.randn(48)
    exact = [torch.nn.Parameter(start.float()), torch.nn.Parameter(bias.clone())]
    ours = [torch.nn.Parameter(start.clone()), torch.nn.Parameter(bias.clone())]
    ours[0].grad_dtype = torch.float32
    settings = {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = torch.optim.AdamW(exact, fused=True, **settings), RoundedAdamW(ours, **settings)
    for _ in range(5):
        for p, q in zip(exact, ours, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(exact[1], ours[1])  # what is float32 has the very bits
    wanted, found = (each.state[p] for each, p in zip(optimizers, (exact[0], ours[0]), strict=True))
    for name in ("exp_avg", "exp_avg_sq"):
        assert found[name].dtype == torch.bfloat16
        torch.testing.assert_close(found[name].float(), wanted[name], rtol=5 * 2**-8, atol=2**-9)
    assert float(found["step"]) == 5
    torch.testing.assert_close(ours[0].float(), exact[0].detach(), rtol=5 * 2**-7, atol=0.01)


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("batches", [pack_shared(SHARED, 250), pack(ALONE, 200)], ids=["shared", "alone"])
@pytest.mark.parametrize("kind", [{}, {"qk_norm": True}, {"tie_word_embeddings": False, "attention_bias": True}])
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # PyTorch of its own, under autocast
def test_gradients_are_those_of_the_same_numbers_in_float32(kind, batches):
    cfg, held = PolicyConfig(**NARROW), network(**kind)
    narrow(held)
    wide = network(**kind)
    wide.load_state_dict(held.state_dict())
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert isinstance(mixed(held, cfg), MixedTransformer)
    ours, same = learnt(held, cfg, batches), learnt(wide, PolicyConfig(dtype="bfloat16"), batches)
    assert {g.dtype for g in ours} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(ours, same, strict=True))
    by_pytorch = learnt(held, cfg.model_copy(update={"kernels": "torch"}), batches)
    assert {g.dtype for g in by_pytorch} == {torch.float32}
    assert error(by_pytorch, same) < 0.06


def test_it_learns_saves_itself_and_goes_on_bit_for_bit(make_policy, tmp_path):
    policy = make_policy(**NARROW, lr=1e-2)
    before = sum(map(sum, policy.logprobs(EXAMPLES)))
    train(policy, 3)
    policy.save(tmp_path)
    train(policy, 3)
    assert sum(map(sum, policy.logprobs(EXAMPLES))) > before + 1
    again = make_policy(seed=9, **NARROW, lr=1e-2)
    again.load(tmp_path)
    train(again, 3)
    pairs = list(zip(policy.network.named_parameters(), again.network.parameters(), strict=True))
    assert all(torch.equal(p, q) for (_, p), q in pairs)
    assert all(p.dtype == (torch.bfloat16 if p.dim() >= 2 else torch.float32) for (_, p), _ in pairs)
    assert {m.dtype for p, state in policy.optimizer.state.items() if p.dim() >= 2 for m in (state["exp_avg"],)} == {
        torch.bfloat16
    }


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_compiled_functions_go_on_bit_for_bit_too(tmp_path):
    def opened(seed: int) -> Policy:
        net = network()
        net.initialise(torch.Generator().manual_seed(seed), std=0.1)
        return Policy(net, tiny_tokenizer(), PolicyConfig(**NARROW, lr=1e-3))

    def learn(policy: Policy) -> None:
        assert isinstance(policy.learning, MixedTransformer)
        policy.update(lambda n: pack(ALONE, n), lambda b: (-policy.forward(b)[0].sum() / 250, {}), total=9)

    policy, again = opened(1), opened(2)
    learn(policy)
    policy.save(tmp_path)
    learn(policy)
    again.load(tmp_path)
    learn(again)
    assert all(torch.equal(p, q) for p, q in zip(policy.network.parameters(), again.network.parameters(), strict=True))


def test_a_checkpoint_in_float32_goes_on_in_bfloat16_with_todays_settings(make_policy, tmp_path):
    policy = make_policy(lr=1e-2, betas=(0.9, 0.999), weight_decay=0.5)
    train(policy, 2)
    policy.save(tmp_path)
    again = make_policy(seed=9, **NARROW, lr=1e-2)
    again.load(tmp_path)
    for p, q in zip(policy.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(p.to(q.dtype), q)
        assert again.optimizer.state[q]["exp_avg_sq"].dtype == q.dtype
    assert {(group["betas"], group["weight_decay"]) for group in again.optimizer.param_groups} == {((0.9, 0.95), 0.0)}
    train(again, 1)


def test_its_model_is_one_like_any_other(folder: Path, run, tmp_path):
    with open_policy(run, Model(folder, {"folder": "."}), PolicyConfig(**NARROW)) as policy:
        policy.save_model(tmp_path / "made")
    assert read_config(tmp_path / "made")["torch_dtype"] == "bfloat16"
    stored = load_file(tmp_path / "made" / "model.safetensors")
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert stored["model.norm.weight"].dtype == torch.float32
    assert policy.frozen(tmp_path / "made").lm_head.weight.dtype == torch.bfloat16  # as a teacher
    again, _ = load_model(tmp_path / "made")
    for p, q in zip(policy.network.parameters(), again.parameters(), strict=True):
        assert q.dtype == torch.float32
        assert torch.equal(p.float(), q)


@pytest.mark.parametrize(
    "engine", [{}, {"dtype": "float32"}, {"kernels": "torch"}, {"dtype": "float32", "deterministic": True}]
)
def test_engines_sample_from_it_what_they_sample_from_the_same_numbers_in_float32(engine):
    held, wide = network(), network()
    narrow(held)
    wide.load_state_dict(held.state_dict())
    texts = []
    for net in (held, wide):
        with open_engine(
            net.requires_grad_(False), tiny_tokenizer(), EngineConfig(**{"dtype": "bfloat16"} | engine)
        ) as e:
            e.eos_ids = frozenset()
            found = dict(generate(e, [Request((0, 1), Sampling(max_tokens=12), prompt=(5, 9, 100))]))
            texts.append([event.completion for event in found[0] if event.completion])
    assert len(texts[0]) == 2
    assert [t.tokens for t in texts[0]] == [t.tokens for t in texts[1]]


def test_a_critic_beside_it_is_float32(make_policy):
    critic = Critic(make_policy(**NARROW), CriticConfig(), beta=0.0, temperature=1.0)
    assert {p.dtype for p in critic.network.parameters()} == {torch.float32}
    assert not isinstance(critic.optimizer, RoundedAdamW)


def test_a_reference_is_a_copy_that_stays(make_policy):
    policy = make_policy(**NARROW, lr=1e-2)
    policy.refresh_reference()
    before = policy.logprobs(EXAMPLES, reference=True)
    assert before == policy.logprobs(EXAMPLES)
    train(policy, 2)
    assert policy.logprobs(EXAMPLES, reference=True) == before != policy.logprobs(EXAMPLES)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float32"}, 'dtype = "bfloat16"'),
        ({"lora": Lora()}, "goes without lora"),
        ({"sharding": "fsdp", "sequences": "split"}, "goes without sharding, sequences"),
        ({"offload": "cpu"}, "goes without offload"),
        ({"betas": (0.9, 0.999)}, "betas of at most 0.99"),
    ],
)
def test_what_it_does_not_go_with_is_said_at_once(settings, words):
    with pytest.raises(ValidationError, match=words):
        PolicyConfig(**NARROW | settings)


def test_an_engine_in_another_process_samples_from_it_what_one_here_samples():
    held = network(vocab_size=257, attention_bias=True).requires_grad_(False)
    settings = EngineConfig(dtype="bfloat16", max_len=64)
    narrow(held)
    there = settings.model_copy(update={"processes": 1})
    with one_thread(), open_pool(held, tiny_tokenizer(), there) as pool:
        for version in (1, 2):
            with open_engine(held, tiny_tokenizer(), settings) as engine:
                assert answers(pool, requests(1, samples=8)) == answers(engine, requests(1, samples=8))
            moved(held)
            pool.bump(version)


def test_log_probabilities_of_a_text_are_those_that_it_learns_with(make_policy):
    policy = make_policy(**NARROW)
    for example, expected in zip(EXAMPLES, policy.logprobs(EXAMPLES), strict=True):
        found = text_logprobs(policy.network, example.tokens)
        assert found[len(found) - len(expected) :] == pytest.approx(expected, abs=0.05)


def test_other_networks_and_old_pytorch_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="only our own decoder"):
        Policy(torch.nn.Linear(2, 2), tiny_tokenizer(), PolicyConfig(**NARROW))
    monkeypatch.setattr("thinkery.train.rounded.hasattr", lambda *_: False, raising=False)
    with pytest.raises(ConfigError, match="this PyTorch has no gradients"):
        narrow(tiny_network())


def test_ten_bytes_a_parameter_are_held():
    assert held_bytes(PolicyConfig(**NARROW), 1) == (10, 0)
    assert held_bytes(PolicyConfig(), 1) == held_bytes(LearnerConfig(), 1) == (16, 0)
    policy = Policy(network(), tiny_tokenizer(), PolicyConfig(**NARROW))
    policy.update(lambda n: pack(EXAMPLES, n), imitation(policy, EXAMPLES), total=1)
    matrices = [p for p in policy.network.parameters() if p.dim() >= 2]
    held = sum(x.nbytes for p in matrices for x in (p, *policy.optimizer.state[p].values()) if x.dim())
    assert held == 6 * sum(p.numel() for p in matrices)  # and a gradient of 4 while an update is learnt
