"""Beside speed, sameness: outputs, log-probabilities and gradients against transformers in float32.

python -m bench.peers.same MATERIAL THREADS DEVICE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.peers.ours import room
from bench.peers.work import WORKS, Material
from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.model.hf import load_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Transformer
from thinkery.train.batch import Example, pack_shared
from thinkery.train.optim import PolicyConfig
from thinkery.train.policy import token_logprobs

PROMPTS, TOKENS = 4, 32


def main() -> None:
    """One line of JSON."""
    material = Material.load(Path(sys.argv[1]))
    torch.set_num_threads(int(sys.argv[2]))
    device = torch.device(sys.argv[3])
    theirs = AutoModelForCausalLM.from_pretrained(material.folder, dtype=torch.float32).eval().to(device)
    theirs.generation_config.eos_token_id = None  # both go on to the last token
    network, tokenizer = load_model(material.folder, device=device)
    assert isinstance(network, Transformer)
    prompts = material.prompts(WORKS["sample-8"], 0)[:PROMPTS]
    texts, said = greedy(network, tokenizer, prompts)
    print(json.dumps({
        "greedy": sum(a == b for a, b in zip(texts, greedy_of(theirs, prompts), strict=True)) / PROMPTS,
        "logprob": logprob_error(theirs, prompts, texts, said),
        "gradient": gradient_error(network, theirs, prompts, texts),
    }))  # fmt: skip


def greedy(
    network: Transformer, tokenizer: Tokenizer, prompts: list[list[int]]
) -> tuple[list[list[int]], list[list[float]]]:
    """What the engine says in float32, and with which log-probabilities."""
    how = Sampling(temperature=0.0, max_tokens=TOKENS)
    cfg = EngineConfig(dtype="float32", **room(network.lm_head.weight.device.type))
    with open_engine(network, tokenizer, cfg) as engine:
        engine.eos_ids = frozenset()
        found = dict(generate(engine, [Request((0,), how, prompt=tuple(prompt)) for prompt in prompts]))
    completions = [found[i][0].completion for i in range(len(prompts))]
    return [list(c.tokens) for c in completions if c], [list(c.logprobs) for c in completions if c]


def greedy_of(model: PreTrainedModel, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers says."""
    tokens = torch.tensor(prompts, device=model.device)
    found = model.generate(  # pyright: ignore[reportCallIssue]
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=TOKENS,
        pad_token_id=0,
    )
    return found[:, tokens.shape[1] :].tolist()


def logprobs_of(model: PreTrainedModel, prompts: list[list[int]], texts: list[list[int]]) -> torch.Tensor:
    """transformers' log-probabilities of the texts."""
    tokens = torch.tensor([prompt + text for prompt, text in zip(prompts, texts, strict=True)], device=model.device)
    logits, said = model(tokens).logits[:, len(prompts[0]) - 1 : -1], tokens[:, len(prompts[0]) :]
    return logits.log_softmax(-1).gather(-1, said[:, :, None])[:, :, 0]


@torch.no_grad()
def logprob_error(
    model: PreTrainedModel, prompts: list[list[int]], texts: list[list[int]], said: list[list[float]]
) -> float:
    """The largest difference in nats."""
    return float((logprobs_of(model, prompts, texts).cpu() - torch.tensor(said)).abs().max())


def gradient_error(
    network: Transformer, model: PreTrainedModel, prompts: list[list[int]], texts: list[list[int]]
) -> float:
    """The length of the difference over that of the gradient, of all weights: every prompt with two texts behind it."""
    twice = [prompt for prompt in prompts for _ in range(2)]
    mixed = [text for i in range(len(texts)) for text in (texts[i], prompts[i - 1][:TOKENS])]
    examples = [
        Example(np.array(prompt + text), learn_from=len(prompt)) for prompt, text in zip(twice, mixed, strict=True)
    ]
    for batch in pack_shared(examples, 512, network.lm_head.weight.device):
        token_logprobs(network, batch, 1.0, PolicyConfig())[0].sum().backward()
    logprobs_of(model, twice, mixed).sum().backward()
    ours = dict(network.named_parameters())
    wanted = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    error = sum(float((ours[name].grad - slope).square().sum()) for name, slope in wanted.items())  # pyright: ignore
    return (error / sum(float(slope.square().sum()) for slope in wanted.values())) ** 0.5


if __name__ == "__main__":
    main()
