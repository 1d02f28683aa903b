"""Products in 8 bits are those of whole numbers, and a decoder with them is near the one with exact products."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tests.engine.asking import drawn
from torch import Tensor, nn
from torch.nn import functional as F

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.engine.native.kernels import Compiled
from thinkery.engine.pool import open_pool
from thinkery.errors import ConfigError, NotFinite
from thinkery.model.compiled import compiler
from thinkery.model.transformer import Transformer
from thinkery.stages.reinforce import Reinforce, loop_of

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


def hadamard(n: int) -> Tensor:
    """Of ones and minus ones."""
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def whole(x: Tensor) -> tuple[Tensor, Tensor]:
    """The whole numbers of rows that are spread, and each row's unit."""
    spread = (x.unflatten(-1, (-1, 64)) @ hadamard(64)).flatten(-2)
    largest = spread.abs().amax(-1, keepdim=True)
    over = torch.tensor(127.0).div(largest)  # 127 / largest would be a product with a reciprocal
    return (spread.double() * over).round().float(), largest / 127


def product(x: Tensor, weight: Tensor) -> Tensor:
    """What 8 bits leave of a product."""
    (rows, of_rows), (outputs, of_outputs) = whole(x), whole(weight)
    return (rows.double() @ outputs.double().T).float() * of_rows / 64 * of_outputs.T


@pytest.mark.parametrize("rows", [1, 12, 13, 200])
def test_products_are_those_of_whole_numbers(rows):
    """Inputs are whole, so that nothing depends on the order in which they are added up: of one depth and of more,
    outputs that fill panels and not."""
    torch.manual_seed(5)
    for outputs, width in ((16, 64), (275, 192), (64, 2304)):
        x, weight = torch.randint(-9, 10, (rows, width)).float(), torch.randint(-9, 10, (outputs, width)).float()
        scale, bias = 2.0 ** torch.randint(-2, 3, (width,)), torch.randn(outputs) if outputs % 16 == 0 else None
        found = Compiled(torch.float32, torch.int8).linear(weight, scale, bias)(x)
        wanted = product(x, weight * scale) + (0 if bias is None else bias)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-4)
        exact = F.linear(x, weight * scale, bias)
        assert 0.003 < (found - exact).std() / exact.std() < 0.02


def test_a_number_that_stands_out_is_spread_over_its_64():
    """One input of a hundred times the others' size would leave a unit of 100 / 127 to these."""
    torch.manual_seed(5)
    x, weight = torch.randn(50, 128), torch.randn(40, 128)
    x[:, 3] *= 100
    weight[:, 3] /= 100
    exact, found = x @ weight.T, Compiled(torch.float32, torch.int8).linear(weight, None, None)(x)
    largest = x.abs().amax(-1, keepdim=True) / 127
    rounded = (x / largest).round() * largest @ weight.T
    assert (found - exact).std() < 0.5 * (rounded - exact).std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_comes_out_the_same_to_the_last_bit_whoever_is_beside_it(dtype):
    panels = Compiled(dtype, torch.int8).linear(torch.randn(112, 2112), None, None)
    x = torch.randn(75, 2112).to(dtype)
    x[4] = 0
    whole = panels.logits(x)
    assert torch.equal(whole[4], torch.zeros(112))
    for begin, end in ((0, 1), (3, 9), (64, 75), (1, 74)):
        assert torch.equal(panels.logits(x[begin:end]), whole[begin:end])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_number_afterwards(number):
    weight, x = torch.randn(40, 128), torch.randn(3, 128)
    x[1, 70] = number
    found = Compiled(torch.float32, torch.int8).linear(weight, None, None)(x)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()
    weight[5, 7] = number
    assert Compiled(torch.float32, torch.int8).linear(weight, None, None)(x)[0].isnan().nonzero().tolist() == [[5]]


def test_broken_weights_raise_instead_of_sampling_nonsense(shape, tokenizer):
    network = widened(shape)
    with torch.no_grad():
        network.blocks[0].mlp.down_proj.weight[3, 3] = float("nan")
    with open_engine(network, tokenizer, EngineConfig(quantization="int8")) as engine, pytest.raises(NotFinite):
        dict(generate(engine, [Request((1,), Sampling(max_tokens=4), prompt=(3, 4, 5))]))


def test_members_in_8_bits_take_weights(shape, tokenizer):
    """Their log-probabilities of the canary are farther from the learner's than those of other formats may be."""
    network = widened(shape)
    cfg = EngineConfig(quantization="int8", processes=1, max_len=64)
    with open_pool(network, tokenizer, cfg) as engine:
        engine.eos_ids = frozenset()
        [(_, events)] = generate(engine, [Request((1,), Sampling(max_tokens=4), prompt=(3, 4, 5))])
    assert [len(event.completion.tokens) for event in events if event.completion] == [4]


def widened(shape, **changes) -> Transformer:
    """A decoder whose products have multiples of 64 inputs."""
    wide = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "intermediate_size": 192}
    return drawn(replace(shape, **wide | changes))


def in_whole_numbers(network: Transformer) -> Transformer:
    """The decoder with each product replaced; norms go into the weights behind them first, as the engine has them."""
    network = copy.deepcopy(network)

    class Whole(nn.Module):
        def __init__(self, layer: nn.Linear, norm: Tensor | None) -> None:
            super().__init__()
            self.weight = nn.Parameter(layer.weight if norm is None else layer.weight * norm, requires_grad=False)
            self.bias = layer.bias

        def forward(self, x: Tensor) -> Tensor:
            found = product(x, self.weight)
            return found if self.bias is None else found + self.bias

    norms = []
    for block in network.blocks:
        before, between = block.input_layernorm.weight, block.post_attention_layernorm.weight
        norms += [before, between]
        attention, mlp = block.self_attn, block.mlp
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(attention, name, Whole(getattr(attention, name), None if name == "o_proj" else before))
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(mlp, name, Whole(getattr(mlp, name), None if name == "down_proj" else between))
    norms.append(network.model["norm"].weight)
    network.lm_head = Whole(network.lm_head, norms[-1])
    for norm in norms:
        norm.data = torch.ones_like(norm)
    return network


@torch.no_grad()
def logprobs_of(network: Transformer, prompt, said) -> Tensor:
    """What the decoder gives a completion."""
    text = torch.tensor([*prompt, *said])
    logits = network.logits(network.packed(text, [len(text)]))[len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]


@pytest.mark.parametrize("changes", [{}, {"family": "qwen3", "qk_norm": True}, {"attention_bias": True}], ids=str)
def test_a_decoder_in_8_bits_is_the_one_with_products_of_whole_numbers(shape, tokenizer, changes):
    """Prompts are read and tokens decoded with them; a number now and then is rounded to the other side."""
    network = widened(shape, **changes)
    requests = [Request((1, 2), Sampling(max_tokens=12), prompt=tuple(range(3, 3 + n))) for n in (5, 40)]
    with open_engine(network, tokenizer, EngineConfig(quantization="int8")) as engine:
        engine.eos_ids = frozenset()
        events = dict(generate(engine, requests))
    said = [(requests[i].prompt, event.completion) for i in range(2) for event in events[i]]
    found = torch.cat([torch.tensor(one.logprobs) for _, one in said])
    near, exact = (
        torch.cat([logprobs_of(each, prompt, one.tokens) for prompt, one in said])
        for each in (in_whole_numbers(network), network)
    )
    assert (found - near).abs().mean() < 0.2 * (found - exact).abs().mean()
    assert (found - exact).abs().mean() < 0.2


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"intermediate_size": 96}, {}, "multiples of 64 inputs, this model's have 96"),
        ({}, {"kernels": "torch"}, "are compiled"),
        ({}, {"deterministic": True, "max_batch": 4, "max_len": 64}, "deterministic"),
    ],
)
def test_what_has_no_products_in_8_bits_is_said_before_anything_is_sampled(
    shape, tokenizer, changes, settings, message
):
    cfg = EngineConfig(quantization="int8", **settings)
    with pytest.raises(ConfigError, match=message), open_engine(widened(shape, **changes), tokenizer, cfg):
        pass


def test_reinforcement_learning_corrects_for_samples_in_8_bits():
    cfg = Reinforce(engine=EngineConfig(quantization="int8"))
    assert loop_of(cfg).old_logprobs == "trainer"
    assert loop_of(Reinforce()).old_logprobs == "auto"
    chosen = Reinforce.model_validate({"engine": {"quantization": "int8"}, "grpo": {"old_logprobs": "sampler"}})
    assert loop_of(chosen).old_logprobs == "sampler"
    with pytest.raises(ValidationError, match="is the built-in engine's"):
        Reinforce.model_validate({"engine": {"quantization": "int8"}, "vllm": {}})
