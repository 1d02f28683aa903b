"""What learns in bfloat16 by compiled functions is near what PyTorch computes in float32, forwards and backwards."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from thinkery.model.compiled import compiler
from thinkery.model.lora import Lora, LoraLinear, adapt
from thinkery.model.transformer import Shape, Transformer, recomputed
from thinkery.train.batch import Example, pack, pack_shared
from thinkery.train.kernels import Kernels, Spans
from thinkery.train.mixed import MixedTransformer
from thinkery.train.policy import Policy, PolicyConfig, mixed, token_logprobs
from thinkery.train.ppo import Critic, CriticConfig

VOCABULARY = 133
pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


def network(**kind) -> Transformer:
    """Two layers with three query heads for each head of keys; what is fused is not square."""
    shape = Shape("qwen2", VOCABULARY, 192, 224, 2, 6, 2, 32, max_position_embeddings=512)
    found = Transformer(replace(shape, **kind)).eval()
    found.initialise(torch.Generator().manual_seed(0), std=0.1)
    with torch.no_grad():
        for number, parameter in enumerate(p for p in found.parameters() if p.dim() < 2):
            parameter += 0.1 * torch.randn(len(parameter), generator=torch.Generator().manual_seed(number))
    return found


def examples(*parts: tuple[int, tuple[int, ...]]) -> list[Example]:
    """Continuations of these lengths after each of the prompts."""
    draw = np.random.default_rng(1)
    found = []
    for prompt, lengths in parts:
        given = draw.integers(0, VOCABULARY, prompt)
        found += [Example(np.concatenate((given, draw.integers(0, VOCABULARY, n))), learn_from=prompt) for n in lengths]
    return found


SHARED = examples((37, (50, 1, 33, 98)), (5, (9, 61)))
ALONE = examples(*((1, (n,)) for n in (1, 14, 15, 16, 47, 48, 130)))


def learnt(net: Transformer, cfg: PolicyConfig, batches) -> list[torch.Tensor]:
    """Log-probabilities, entropies, and the gradient of every weight that learns."""
    net.zero_grad(set_to_none=True)
    found = []
    for batch in batches:
        logprobs, entropies = token_logprobs(mixed(net, cfg), batch, 0.8, cfg)
        (logprobs * torch.sin(torch.arange(len(logprobs)) + 1.0)).sum().backward()
        found += [logprobs.detach(), entropies]
    return found + [p.grad for p in net.parameters() if p.requires_grad and p.grad is not None]


def error(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """The largest difference of any tensor, as a share of its length."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("batches", [pack_shared(SHARED, 250), pack(ALONE, 200)], ids=["shared", "alone"])
@pytest.mark.parametrize(
    "kind",
    [{}, {"attention_bias": True, "output_bias": True}, {"qk_norm": True}, {"tie_word_embeddings": False}],
    ids=["llama", "biased", "qwen3", "own-head"],
)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # PyTorch of its own, under autocast
def test_probabilities_and_gradients_are_as_near_to_exact_ones_as_autocast_is(kind, batches):
    net, cfg = network(**kind), PolicyConfig(dtype="bfloat16")
    assert isinstance(mixed(net, cfg), MixedTransformer)
    exact = learnt(net, PolicyConfig(), batches)
    autocast = learnt(net, PolicyConfig(dtype="bfloat16", kernels="torch"), batches)
    ours = learnt(net, cfg, batches)
    assert len(ours) == len(exact)
    assert error(ours, exact) < 0.05
    assert error(ours, exact) < 1.1 * error(autocast, exact)


def test_adapters_learn_beside_frozen_weights():
    net, cfg, batches = network(), PolicyConfig(dtype="bfloat16"), pack_shared(SHARED, 250)
    adapt(net, Lora(rank=4), seed=1)
    for layer in net.modules():
        if isinstance(layer, LoraLinear):
            layer.lora_B.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(2))
    exact = learnt(net, PolicyConfig(), batches)
    assert error(learnt(net, cfg, batches), exact) < 0.06
    assert all(p.grad is None for p in net.parameters() if not p.requires_grad)


def test_activations_and_logits_that_are_computed_again_change_no_bit():
    net, batches = network(), pack(ALONE, 200)
    kept = learnt(net, PolicyConfig(dtype="bfloat16"), batches)
    net.through = recomputed
    again = learnt(net, PolicyConfig(dtype="bfloat16", logits_chunk=VOCABULARY * 60), batches)
    assert all(torch.equal(a, b) for a, b in zip(kept[:-26], again[:-26], strict=True))
    assert error(again, kept) < 1e-2  # the head's gradient is rounded chunk by chunk


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_weights_are_laid_out_anew_after_every_update(make_policy, weights):
    policy = Policy(network(), make_policy().tokenizer, PolicyConfig(dtype="bfloat16", lr=0.01, weights=weights))
    before = policy.logprobs(ALONE)
    policy.update(lambda size: pack(ALONE, size), lambda batch: (-policy.forward(batch)[0].mean(), {}), total=1)
    fresh = Policy(policy.network, policy.tokenizer, policy.cfg)
    assert policy.logprobs(ALONE) == fresh.logprobs(ALONE) != before


def test_a_critic_learns_by_them_too(make_policy):
    policy, gradients = Policy(network(), make_policy().tokenizer, PolicyConfig()), []
    judged = [
        replace(e, values=np.zeros(e.learnt), returns=np.sin(np.arange(e.learnt)), old=np.zeros(e.learnt))
        for e in SHARED
    ]
    for dtype in ("float32", "bfloat16"):
        critic = Critic(policy, CriticConfig(dtype=dtype, value_clip=1e3), beta=0.0, temperature=1.0)
        assert isinstance(critic.computing, MixedTransformer) == (dtype == "bfloat16")
        torch.nn.init.normal_(critic.network.head.weight, generator=torch.Generator().manual_seed(1))
        critic.backward(policy.pack(judged, 250), critic.objective(100))
        gradients.append([p.grad for p in critic.network.parameters()])
    assert error(gradients[1], gradients[0]) < 0.05


def test_a_head_is_laid_out_once_for_all_chunks():
    laid, net = [], network()
    computing = MixedTransformer(net)
    for key, function in list(computing.kernels._lay_out.items()):
        counted = lambda *given, function=function: (laid.append(given), function(*given))  # noqa: E731
        computing.kernels._lay_out[key] = counted
    batch = pack(ALONE, 1000)[0]
    for chunk in (VOCABULARY * 1000, VOCABULARY * 60):
        token_logprobs(computing, batch, 1.0, PolicyConfig(dtype="bfloat16", logits_chunk=chunk))[0].sum().backward()
    products = 4 * net.shape.num_hidden_layers
    assert len(laid) == 2 * (2 * products + 2) == 36


def test_going_back_twice_is_refused_because_the_logits_are_gone():
    batch = pack(ALONE, 1000)[0]
    cfg = PolicyConfig(dtype="bfloat16")
    loss = token_logprobs(mixed(network(), cfg), batch, 1.0, cfg)[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_token_after_equal_keys_sees_the_mean_of_the_values_so_far():
    shape = Shape("llama", 9, 32, 32, 1, 1, 1, 32)
    qkv = torch.zeros(5, 96)
    qkv[:, 64:] = torch.tensor([8.0, 4.0, 3.0, 1.0, 5.0])[:, None]
    out, logs = Kernels().attend(qkv.bfloat16(), Spans([(2, (1, 2))]), shape)
    # the prompt is 8, 4; one continuation says 3, the other 1 and then 5
    torch.testing.assert_close(out[:, 0].float(), torch.tensor([8.0, 6.0, 5.0, 13 / 3, 4.5]), rtol=4e-3, atol=0)
    torch.testing.assert_close(logs[0], torch.tensor([0.0, math.log(2), math.log(3), math.log(3), math.log(4)]))


def test_probabilities_of_equal_logits_are_one_in_so_many():
    logits = torch.zeros(2, 19).bfloat16()
    logits[1, 18] = 60.0
    labels, kernels = torch.tensor([3, 18]), Kernels()
    logprobs, entropies, logs = kernels.label_logprobs(logits, labels, 2.0)
    torch.testing.assert_close(logprobs, torch.tensor([-math.log(19), 0.0]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropies, torch.tensor([math.log(19), 0.0]), atol=1e-6, rtol=1e-6)
    kernels.label_logprobs_back(logits, labels, torch.tensor([2.0, 2.0]), logs, 2.0)
    wanted = torch.full((2, 19), -1 / 19)
    wanted[0, 3], wanted[1] = 18 / 19, 0.0
    torch.testing.assert_close(logits.float(), wanted, atol=1e-6, rtol=4e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "width", "layers"),
    [(1, 32, [12]), (7, 48, [64]), (484, 192, [133]), (200, 64, [640, 160, 160]), (9, 32, [5, 7, 3])],
)
def test_products_with_weights_and_their_gradients_are_those_of_torch(rows, width, layers, dtype):
    """Widths that fill panels and not, rows that are odd, more rows than pass at once, layers that end in the middle of
    a panel; gradients are not rounded."""
    torch.manual_seed(5)
    outputs, do = sum(layers), Kernels()
    weight, x = torch.randn(outputs, width).to(dtype), torch.randn(rows, width).bfloat16()
    exact, near = weight.bfloat16().float(), {"rtol": 2**-8, "atol": 2**-8}
    parts = [part.clone() for part in weight.split(layers)]
    slope = do.multiply(x, do.panels(parts), outputs)
    torch.testing.assert_close(slope.float(), x.float() @ exact.T, **near)
    back = do.multiply(slope, do.panels(parts, transposed=True), width)
    torch.testing.assert_close(back.float(), slope.float() @ exact, **near)
    gradient = torch.full((outputs, width), torch.nan)
    for times, add in enumerate((False, True), 1):
        do.learn(gradient, x, slope, add=add)
        expected = times * slope.double().T @ x.double()
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-4 * rows**0.5)
    part = torch.empty(8, width)
    do.learn(part, x, slope[:, 3:11], add=False)
    torch.testing.assert_close(part, gradient[3:11] / 2, rtol=1e-5, atol=1e-4 * rows**0.5)
