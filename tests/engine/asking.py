"""What pools are in the tests, what they are asked, and what one engine answers to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from thinkery.core import Message, Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.model.transformer import Shape, Transformer

FIXED = EngineConfig(max_batch=8, max_len=64, deterministic=True)


def drawn(shape: Shape) -> Transformer:
    """Weights wide enough apart that the next token is neither certain nor uniform."""
    network = Transformer(shape)
    network.initialise(torch.Generator().manual_seed(1), std=0.3)
    return network


def newest(engine):
    """The engine with the newest weights and nothing in flight."""
    engine.take(engine.snapshot(engine.version + 1))
    return engine


@contextmanager
def one_thread() -> Iterator[None]:
    """This process computes with one thread meanwhile, as members do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def requests(count: int = 6, samples: int = 3, max_tokens: int = 12) -> list[Request]:
    """So many questions, each with a few samples."""
    sampling = Sampling(max_tokens=max_tokens)
    return [
        Request(tuple(range(100 * n, 100 * n + samples)), sampling, (Message("user", f"Question {n}?"),))
        for n in range(count)
    ]


def answers(engine, asked) -> list:
    """By request, what each of its samples said, its prompt and its log-probabilities."""
    by_number = dict(generate(engine, asked))
    assert sorted(by_number) == list(range(len(asked)))
    assert all([e.sample for e in by_number[n]] == list(range(len(asked[n].seeds))) for n in by_number)
    return [[(e.prompt, e.completion.tokens, e.completion.logprobs) for e in by_number[n]] for n in sorted(by_number)]


def alone(network, tokenizer, asked) -> list:
    """What one engine in this process answers."""
    with open_engine(network, tokenizer, FIXED) as engine:
        return answers(engine, asked)


def moved(network) -> None:
    """Change the weights a little."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


def samples_as_one_engine(engine, network, tokenizer) -> None:
    """Before an update and after it a pool says what one engine says, and names the version."""
    first = answers(engine, requests())
    assert first == alone(network, tokenizer, requests())
    moved(network)
    engine.bump(engine.version + 1)
    second = answers(engine, requests())
    assert second == alone(network, tokenizer, requests())
    assert second != first
    [(_, events)] = generate(engine, requests(1))
    assert {event.completion.version for event in events} == {engine.version}
