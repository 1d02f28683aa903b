"""What pools are in the tests, what they are asked, and what one engine answers to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

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


def samples_once_though_one_is_killed(engine, network, tokenizer, kill: Callable[[Any], object]) -> None:
    """A pool of two says what one engine says, each sample once, though its busiest member is killed meanwhile; soon
    there are two again."""
    asked = [*requests(5), replace(requests(1)[0], seeds=tuple(range(8)), sampling=Sampling(max_tokens=40))]
    lost = engine.lost
    found = killing(engine, asked, kill)
    said = [[(e.prompt, e.completion.tokens, e.completion.logprobs) for e in found[n]] for n in range(len(asked))]
    assert said == alone(network, tokenizer, asked)
    until_all_are_ready(engine)
    assert (engine.lost, len(engine.places)) == (lost + 1, 2)
    assert answers(engine, requests()) == alone(network, tokenizer, requests())


def killing(engine, asked: list[Request], kill: Callable[[Any], object]) -> dict[int, Any]:
    """What is said to each request, once, while the busiest member is killed at the first that has ended."""
    found, killed = {}, None
    for number, events in generate(engine, asked):
        assert number not in found
        found[number] = events
        busiest = max(engine.places, key=lambda place: place.load)
        if killed is None and busiest.load:
            killed = busiest
            kill(killed)
    assert killed
    until_all_are_ready(engine, but=killed)
    assert sorted(found) == list(range(len(asked)))
    return found


def until_all_are_ready(engine, but=None) -> None:
    """Wait until every member samples, and one that was lost is not among them."""
    end = time.monotonic() + 300
    while but in engine.places or not all(place.ready for place in engine.places):
        engine.listen()
        assert time.monotonic() < end
