"""What this machine does for a model of a shape: measured before a plan, in a second or two.

A wide model takes most of its time for products of its matrices, which are timed, and a share for the rest, which is
known. In a narrow one most of the time goes into that, norms, softmax, small operations and Python, so a narrow one is
built with random weights and a few of its layers, and really learns and samples; the rest of the layers are taken to be
like these.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, open_engine
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
LEARNS, SAMPLES = 0.75, 0.87
"""Shares of the products' speed that a wide model's learning and sampling have in all, with attention, the optimiser's
step and everything else. Learning: 0.67 and 0.84 in bench/results/peers-slower.json and peers.json. Sampling: with the
time to read the weights once a step beside it, steps of 1, 8 and 64 samples lie on one line there, of 0.84 and 0.9."""
SEQUENCES, TOKENS = 16, 128
"""What is learnt at once."""
FEW, MANY = 4, 128
"""Samples in flight."""
SOON, LATE, STEPS = 8, 104, 16
"""Tokens of a sample before the steps that are timed, and how many steps that is."""
GROUP = 8
"""Samples of one prompt, which see its tokens together."""
PROMPT = tuple(range(1, 32))


def probe(shape: Shape, directory: Path, memory: float) -> Machine:
    """Measure this machine for a shape; `memory` is what is free."""
    existing = next(p for p in (directory, *directory.resolve().parents) if p.exists())
    x_TD, w_DF = torch.randn(1024, shape.hidden_size), torch.randn(shape.hidden_size, shape.intermediate_size)
    operations, narrow_TD, narrow_DF = 2 * x_TD.numel() * shape.intermediate_size, x_TD.bfloat16(), w_DF.bfloat16()
    flops, narrow = operations / fastest(lambda: x_TD @ w_DF), operations / fastest(lambda: narrow_TD @ narrow_DF)
    block, other = torch.zeros(2**24), torch.ones(2**24)
    bandwidth = 2 * 4 * block.numel() / fastest(lambda: block.copy_(other))
    one = torch.zeros(1, 16)
    disk, latency_s = shutil.disk_usage(existing).free, fastest(lambda: one + one)
    found = Machine(flops, bandwidth, latency_s, memory, disk, bfloat16_flops=narrow if narrow > flops else 0.0)
    few = replace(shape, num_hidden_layers=min(LAYERS, shape.num_hidden_layers))
    if parameters(few) <= NARROW:
        return tried(found, few, shape.num_hidden_layers)
    return replace(found, learns=LEARNS, samples=SAMPLES)


def tried(machine: Machine, shape: Shape, layers: int) -> Machine:
    """The machine with what a random model of this shape reached; the model in question has so many `layers`."""
    tokenizer = Tokenizer(Backend(models.WordLevel({"<end>": 0}, unk_token="<end>")), eos="<end>")
    network = Transformer(shape)
    network.initialise(torch.Generator().manual_seed(0))
    deeper = layers / shape.num_hidden_layers
    step_s, sample_s, read_s = (seconds * deeper for seconds in sampling(network, tokenizer))
    operations = SEQUENCES * TOKENS * learning_flops(shape, PolicyConfig(), TOKENS)
    flops = operations / learning(network, tokenizer)
    return replace(machine, learning_flops=flops, step_s=step_s, sample_s=sample_s, read_s=read_s)


def learning(network: Transformer, tokenizer: Tokenizer) -> float:
    """Seconds of one update."""
    policy = Policy(network, tokenizer, PolicyConfig())
    rng = np.random.default_rng(0)
    texts = rng.integers(0, network.shape.vocab_size, (SEQUENCES, TOKENS), dtype=np.int32)
    examples = [Example(text) for text in texts]
    objective = cross_entropy(policy, sum(example.learnt for example in examples))
    return fastest(lambda: policy.update(partial(policy.pack, examples), objective, total=100))


def sampling(network: Transformer, tokenizer: Tokenizer) -> tuple[float, float, float]:
    """Seconds of a step of sampling, of each sample in it, and of each token that a sample sees.

    From few samples and from many, and from many that have said more.
    """
    few, _ = step_seconds(network, tokenizer, FEW)
    many, late = step_seconds(network, tokenizer, MANY)
    each, read = max(0.0, many - few) / (MANY - FEW), max(0.0, late - many) / (MANY * (LATE - SOON))
    seen = len(PROMPT) + SOON + STEPS / 2
    return max(0.0, few - FEW * each), max(0.0, each - seen * read), read


def step_seconds(network: Transformer, tokenizer: Tokenizer, count: int) -> tuple[float, float]:
    """Seconds of a step with so many samples in flight, soon after their beginning and late."""
    vocabulary, group = network.shape.vocab_size, min(GROUP, count)
    with open_engine(network, tokenizer, EngineConfig(max_batch=count)) as engine:
        engine.eos_ids = frozenset()
        for start in range(count // group):
            prompt = tuple(token % vocabulary for token in (start, *PROMPT))
            engine.submit(Request(tuple(range(group)), Sampling(max_tokens=LATE + STEPS + 1), prompt=prompt))
        times = [timed(engine.step) for _ in range(LATE + STEPS)]
    soon, late = (median(times[said : said + STEPS]) for said in (SOON, LATE))
    return soon, late


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
