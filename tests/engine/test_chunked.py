"""Prompts that go through the network in parts: who gets a token meanwhile, and what does not depend on the parts."""

from __future__ import annotations

import gc
import itertools
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, base, generate, open_engine
from thinkery.engine.native.scheduler import GRAIN
from thinkery.model.transformer import Transformer

TOKEN_BYTES = 256
"""Keys and values of one token in float32: 2 layers, 2 heads of 8."""


def asked(length: int, *seeds: int, tokens: int = 6, first: int = 0, **changes) -> Request:
    """A prompt of so many tokens; nothing that is sampled ends it."""
    prompt = tuple((first + 7 * i + i * i) % 250 for i in range(length))
    return Request(seeds or (1,), Sampling(max_tokens=tokens), prompt=prompt, mask=lambda _: range(250), **changes)


def said(network, tokenizer, requests, **settings) -> list:
    """Tokens and log-probabilities of all samples."""
    with open_engine(network, tokenizer, EngineConfig(**settings)) as engine:
        events = dict(generate(engine, requests))
    found = [event.completion for i in range(len(requests)) for event in events[i]]
    return [(one.tokens, torch.tensor(one.logprobs)) for one in found]


def test_a_sample_gets_a_token_in_every_step_while_a_long_prompt_arrives(network, tokenizer):
    """100 tokens at 10 a step are ten steps; the last of them draws the first token of the long one."""
    with open_engine(network, tokenizer, EngineConfig(prefill=10)) as engine:
        short = engine.submit(asked(5, tokens=20))
        engine.step()
        long, last = engine.submit(asked(100)), engine.submit(asked(3, first=9))
        told = [[event.request for event in engine.step()] for _ in range(11)]
    assert told == [[short]] * 9 + [[short, long]] + [[short, long, last]]


def test_what_a_long_prompt_leaves_of_a_step_goes_to_the_next_in_the_queue(network, tokenizer):
    """25 tokens at 10 a step leave 5, enough for 3 tokens but not for 4 more; these begin one step later."""
    with open_engine(network, tokenizer, EngineConfig(prefill=10)) as engine:
        ids = [engine.submit(asked(n, first=n)) for n in (25, 3, 4)]
        told = [[ids.index(event.request) for event in engine.step()] for _ in range(4)]
    assert told == [[], [], [0, 1], [0, 1, 2]]


@pytest.mark.parametrize("prefill", [1, 7, 64, 100])
def test_the_parts_change_no_token_and_no_log_probability(network, tokenizer, prefill):
    requests = [asked(90, 1, 2, 3), asked(40, 4, first=5), asked(1, 5, 6), asked(75, 7, first=30)]
    for (tokens, logprobs), (others, expected) in zip(
        said(network, tokenizer, requests, prefill=prefill), said(network, tokenizer, requests), strict=True
    ):
        assert tokens == others
        torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)


def test_a_part_that_follows_a_known_beginning_sees_it(network, tokenizer):
    """64 of 100 tokens are known from the first prompt, so the second is complete after four steps of 9."""
    with open_engine(network, tokenizer, EngineConfig(prefill=9)) as engine:
        [(_, [first])] = generate(engine, [asked(100)])
        engine.submit(asked(100))
        steps = [engine.step() for _ in range(4)]
        while not (steps[-1] and steps[-1][0].completion):
            steps.append(engine.step())
    assert [len(events) for events in steps[:4]] == [0, 0, 0, 1]
    assert steps[3][0].known == 64
    assert steps[-1][0].completion.tokens == first.completion.tokens


def test_in_deterministic_mode_no_bit_depends_on_what_a_prompt_arrives_with(network, tokenizer, monkeypatch):
    monkeypatch.setattr("thinkery.engine.native.fixed.PART", 16)
    settings = {"deterministic": True, "max_batch": 8, "max_len": 64}
    requests = [asked(50, 1, 2), asked(9, 3, first=5), asked(33, 4, first=30)]
    alone = [said(network, tokenizer, [request], **settings) for request in requests]
    for prefill in (1, 20, 500):
        together = said(network, tokenizer, requests, prefill=prefill, **settings)
        for (tokens, logprobs), (others, expected) in zip(together, itertools.chain(*alone), strict=True):
            assert tokens == others
            assert torch.equal(logprobs, expected)
    for (tokens, logprobs), (others, expected) in zip(together, said(network, tokenizer, requests), strict=True):
        assert tokens == others
        torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
def test_a_prompt_that_ends_half_read_leaves_nothing_behind(network, tokenizer, how, monkeypatch):
    with open_engine(network, tokenizer, EngineConfig(prefill=10)) as engine:
        [(_, [expected])] = generate(engine, [asked(5, tokens=12)])
        kept = engine.submit(asked(5, tokens=12))
        dropped = engine.submit(asked(100, 1, 2, deadline_s=1000.0 if how == "deadline" else None))
        for _ in range(4):
            engine.step()
        assert engine.reading
        assert engine.unplaced == 100
        assert engine.scheduler.queue[0].reading.done == 35  # the first step had 5 tokens left for it
        work = weakref.ref(engine.scheduler.queue[0].reading.kv_XITKE)
        if how == "cancelled":
            engine.cancel(dropped)
        else:
            later = engine.scheduler.queue[0].deadline + 1
            monkeypatch.setattr("thinkery.engine.native.engine.time.monotonic", lambda: later)
        events = engine.step()
        assert [(e.sample, e.completion.finish) for e in events if e.request == dropped] == [(0, how), (1, how)]
        monkeypatch.undo()
        while not events[-1].completion or events[-1].request != kept:
            events = engine.step()
        gc.collect()
        assert work() is None
        assert (engine.reading, engine.unplaced, engine.runner.blocks.tokens) == (False, 0, 0)
    assert events[-1].completion == expected.completion


def test_a_half_read_prompt_makes_room_for_those_before_it(network, tokenizer):
    """Two samples, 10 prompt tokens each, hold 64 or 128 tokens; with the 70 of a third prompt and the 32 of its answer
    there is room for three rows of 102, but not of 128."""
    requests = [asked(10, 1, tokens=80), asked(10, 2, tokens=80, first=3), asked(70, 3, tokens=9)]
    expected = said(network, tokenizer, requests)
    with open_engine(network, tokenizer, EngineConfig(prefill=1, kv_memory=310 * TOKEN_BYTES / 2**30)) as engine:
        ids = [engine.submit(request) for request in requests]
        found, was, dropped = {}, 0, False
        while len(found) < 3:
            for event in engine.step():
                if event.completion:
                    found[ids.index(event.request)] = event.completion
            reading = engine.scheduler.half_read
            done = reading.reading.done if reading else 0
            dropped |= was > 0 and done == 0 and not found
            was = done
            assert engine.scheduler.room.tokens <= 310
    assert dropped
    assert [found[i].tokens for i in range(3)] == [tokens for tokens, _ in expected]


def test_a_prompt_that_is_half_read_at_a_bump_is_read_again_under_the_new_weights(network, tokenizer):
    with open_engine(network, tokenizer, EngineConfig(prefill=10)) as engine:
        engine.submit(asked(60))
        for _ in range(3):
            assert engine.step() == []
        with torch.no_grad():
            network.model["layers"][0].mlp.down_proj.weight.mul_(-1.0)
        engine.bump(1)
        steps = [engine.step() for _ in range(11)]
    assert [len(events) for events in steps] == [0] * 5 + [1] * 6
    completion = steps[-1][0].completion
    assert completion.version == 1
    [(tokens, logprobs)] = said(network, tokenizer, [asked(60)])
    assert completion.tokens == tokens
    torch.testing.assert_close(torch.tensor(completion.logprobs), logprobs, atol=1e-5, rtol=0)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor has which an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return made


def test_the_memory_of_a_long_prompt_is_that_of_its_parts(shape, tokenizer):
    """2,000 tokens, 50 a step: scores of 4 heads are the largest that may be made, beside keys and values."""
    network = Transformer(replace(shape, max_position_embeddings=2100))
    network.initialise(torch.Generator().manual_seed(1), std=0.3)
    found = []
    for prefill in (50, 2000):
        settings = EngineConfig(prefill=prefill, kernels="torch")
        with open_engine(network, tokenizer, settings) as engine, Largest() as largest:
            list(generate(engine, [asked(2000, tokens=1)]))
        found.append(largest.numbers)
    kept = 2 * 2 * (2000 + GRAIN) * 2 * 8
    assert found[0] <= max(4 * 50 * 2000, kept)
    assert found[1] >= 2000 * shape.intermediate_size


def test_steps_that_bring_no_news_because_they_read_are_not_a_stall(network, tokenizer, monkeypatch):
    """A clock that goes on by one second whenever it is read, and 100 steps without news."""
    clock = itertools.count()
    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with open_engine(network, tokenizer, EngineConfig(prefill=1)) as engine:
        [(_, [event])] = generate(engine, [asked(100)], patience_s=5.0)
    assert len(event.completion.tokens) == 6
