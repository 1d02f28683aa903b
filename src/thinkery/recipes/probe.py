"""What this machine does for a model of a shape: measured before a plan, in a second or two.

A wide model is as fast as products of its matrices. In a narrow one most of the time goes elsewhere, into norms,
softmax, small operations and Python, so a narrow one is built with random weights and a few of its layers, and really
learns and samples; the rest of the layers are taken to be like these.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.recipes.arithmetic import learning_flops, parameters
from thinkery.recipes.plan import Machine
from thinkery.train.batch import Example
from thinkery.train.optim import PolicyConfig
from thinkery.train.peak import fastest
from thinkery.train.policy import Policy
from thinkery.train.sft import cross_entropy

NARROW = 30e6
"""Parameters of four layers and the head up to which a model is tried out."""
LAYERS = 4
SEQUENCES, TOKENS = 16, 128
"""What is learnt at once."""
FEW, MANY, NEW = 4, 64, 12
"""Samples in flight, and tokens of each, once so many and once three times as many."""


def probe(shape: Shape, directory: Path, memory: float) -> Machine:
    """Measure this machine for a shape; `memory` is what is free."""
    existing = next(p for p in (directory, *directory.resolve().parents) if p.exists())
    x_TD, w_DF = torch.randn(1024, shape.hidden_size), torch.randn(shape.hidden_size, shape.intermediate_size)
    operations, narrow_TD, narrow_DF = 2 * x_TD.numel() * shape.intermediate_size, x_TD.bfloat16(), w_DF.bfloat16()
    flops, narrow = operations / fastest(lambda: x_TD @ w_DF), operations / fastest(lambda: narrow_TD @ narrow_DF)
    block = torch.zeros(2**24)
    bandwidth = 2 * 4 * block.numel() / fastest(block.clone)
    one = torch.zeros(1, 16)
    disk, latency_s = shutil.disk_usage(existing).free, fastest(lambda: one + one)
    found = Machine(flops, bandwidth, latency_s, memory, disk, bfloat16_flops=narrow if narrow > flops else 0.0)
    few = replace(shape, num_hidden_layers=min(LAYERS, shape.num_hidden_layers))
    return tried(found, few, shape.num_hidden_layers) if parameters(few) <= NARROW else found


def tried(machine: Machine, shape: Shape, layers: int) -> Machine:
    """The machine with what a random model of this shape reached; the model in question has so many `layers`."""
    tokenizer = Tokenizer(Backend(models.WordLevel({"<end>": 0}, unk_token="<end>")), eos="<end>")
    network = Transformer(shape)
    network.initialise(torch.Generator().manual_seed(0))
    step_s, sample_s = sampling(network, tokenizer)
    operations = SEQUENCES * TOKENS * learning_flops(shape, PolicyConfig(), TOKENS)
    flops = operations / learning(network, tokenizer)
    return replace(
        machine,
        learning_flops=flops,
        step_s=step_s * layers / shape.num_hidden_layers,
        sample_s=sample_s * layers / shape.num_hidden_layers,
    )


def learning(network: Transformer, tokenizer: Tokenizer) -> float:
    """Seconds of one update."""
    policy = Policy(network, tokenizer, PolicyConfig())
    rng = np.random.default_rng(0)
    texts = rng.integers(0, network.shape.vocab_size, (SEQUENCES, TOKENS), dtype=np.int32)
    examples = [Example(text) for text in texts]
    objective = cross_entropy(policy, sum(example.learnt for example in examples))
    return fastest(lambda: policy.update(partial(policy.pack, examples), objective, total=100))


def sampling(network: Transformer, tokenizer: Tokenizer) -> tuple[float, float]:
    """Seconds of a step of sampling, and of each sample in it, from few and from many samples."""
    few, many = (step_seconds(network, tokenizer, count) for count in (FEW, MANY))
    each = max(0.0, many - few) / (MANY - FEW)
    return max(0.0, few - FEW * each), each


def step_seconds(network: Transformer, tokenizer: Tokenizer, count: int) -> float:
    """Seconds of a step with so many samples in flight: what more steps take longer, so that reading the prompt and
    the beginning and the end do not count."""
    prompt = tuple(range(1, min(32, network.shape.vocab_size)))
    with open_engine(network, tokenizer, EngineConfig(max_batch=count)) as engine:
        engine.eos_ids = frozenset()
        asked = [Request(tuple(range(count)), Sampling(max_tokens=new), prompt=prompt) for new in (NEW, 3 * NEW)]
        short, long = (fastest(lambda request=request: list(generate(engine, [request]))) for request in asked)
    return max(0.0, long - short) / (2 * NEW)
