"""`generate`: order, and what happens when an engine falls silent."""

import pytest

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.errors import Stalled


class Silent:
    """An engine of which nothing is ever heard."""

    def __init__(self):
        self.cancelled = []

    def submit(self, request):
        return "lost"

    def step(self):
        return []

    def cancel(self, id):
        self.cancelled.append(id)

    def load_weights(self, weights, version): ...

    def release(self): ...


def test_a_silent_engine_ends_in_an_error_that_names_what_is_missing():
    engine = Silent()
    with pytest.raises(Stalled, match=r"lost \(number 0 of 1\), samples \[0, 1\]"):
        list(generate(engine, [Request((1, 2))], patience_s=0.05))
    assert engine.cancelled == ["lost"]


def test_requests_come_in_finishing_order_with_their_samples_in_place(network, tokenizer):
    def exactly(n):
        return Request((1, 2), Sampling(max_tokens=n), prompt=(1,), mask=lambda _: [65])

    with open_engine(network, tokenizer, EngineConfig()) as engine:
        finished = list(generate(engine, [exactly(5), exactly(2), exactly(9)]))
    assert [i for i, _ in finished] == [1, 0, 2]
    assert all([event.sample for event in events] == [0, 1] for _, events in finished)


def test_what_nobody_waits_for_any_more_is_cancelled(network, tokenizer):
    wanted = [Request((1,), Sampling(max_tokens=n), prompt=(1,), mask=lambda _: [65]) for n in (2, 50)]
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        stream = generate(engine, wanted)
        assert next(stream)[0] == 0
        stream.close()
        assert [event.completion.finish for event in engine.step()] == ["cancelled"]
        assert engine.step() == []
