"""What one replica does with its jobs: a prompt that is scored is read in parts, once, and paid for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing import Pipe
from typing import Any

import pytest
import uvloop
from tests.serve.conftest import events

from thinkery.core import Sampling
from thinkery.serve.call import Call, Usage
from thinkery.serve.config import Vllm
from thinkery.serve.door import Door
from thinkery.serve.jobs import Job, News
from thinkery.serve.replica import Desk, Running, Served, open_native, start_replica

RUNNING = Running(
    max_batch=8, kv_memory=0.1, max_len=None, deterministic=False, threads=1, dtype="float32", quantization="none",
    engine="native", vllm=Vllm(),
)  # fmt: skip
PROMPT = tuple(300 + 7 * i % 500 for i in range(1200))
"""Three parts: 512 tokens, 512, and all others but the last."""


class Listened:
    """A desk with a model, and what it has said since one last listened."""

    def __init__(self, desk: Desk, connection: Any) -> None:
        self.desk, self.connection = desk, connection

    def step(self) -> list[News]:
        """One step, and what it brings."""
        self.desk.advance()
        return self.said()

    def said(self) -> list[News]:
        """What has come."""
        found: list[News] = []
        while self.connection.poll():
            said = self.connection.recv()
            found += said if isinstance(said, list) else []
        return found


@pytest.fixture
def one(thinker) -> Iterator[Listened]:
    """A desk in this process."""
    ours, theirs = Pipe()
    with ExitStack() as opened, ours, theirs:
        yield Listened(Desk(theirs, lambda name: open_native(Served(name, thinker), RUNNING, opened)), ours)


def job(id: str, prompt: tuple[int, ...] = PROMPT, *, max_tokens: int = 2, temperature: float = 0.0, **more) -> Job:
    """A plain continuation that does not end by itself."""
    sampling = Sampling(temperature, max_tokens=max_tokens)
    return Job(id, "m", prompt, 1, sampling, "answer", logit_bias=((0, -100.0),), **more)


def test_a_prompt_is_scored_in_parts_between_which_others_get_their_tokens(one):
    one.desk.take(job("other", (341, 342, 343), max_tokens=20))
    one.desk.take(job("echo", score_prompt=True))
    steps = [one.step() for _ in range(3)]
    assert [[news.tokens for news in step if news.job == "other"] for step in steps] == [[1], [2], [3]]
    told = [[len(news.prompt_marks) for news in step if news.job == "echo" and news.prompt_marks] for step in steps]
    assert told == [[], [], [1200]]
    answer = [news for step in (*steps, one.step()) for news in step if news.job == "echo" and news.tokens]
    assert [(news.tokens, news.hit, news.end) for news in answer] == [(1, 0, None), (2, 0, "length")]


def test_a_prompt_has_the_models_own_log_probabilities_at_any_temperature(one):
    found = []
    for temperature in (0.3, 1.5):
        echo = job("echo", PROMPT[:99], max_tokens=0, temperature=temperature, alternatives=2, score_prompt=True)
        one.desk.take(echo)
        found += one.step()
    assert [(news.end, len(news.prompt_marks)) for news in found] == [("length", 99)] * 2
    assert all(news.queued_s >= 0 for news in found)
    assert found[0].prompt_marks == found[1].prompt_marks
    first, *others = found[0].prompt_marks
    assert (first.logprob, first.alternatives) == (None, ())
    assert all(mark.logprob <= mark.alternatives[0][1] <= 0 for mark in others)


def test_a_prompt_that_nobody_waits_for_is_not_scored_to_its_end(one):
    one.desk.take(job("left", score_prompt=True))
    one.desk.take(job("late", score_prompt=True, deadline_s=0.0))
    assert [(news.job, news.end, news.begun) for news in one.step()] == [("late", "deadline", False)]
    one.desk.cancel("left")
    assert [(news.job, news.end, news.begun) for news in one.said()] == [("left", "cancelled", False)]
    assert not one.desk.busy


def test_a_job_is_queued_until_its_prompt_begins_to_be_read(one):
    begun = time.monotonic()
    one.desk.take(job("long"))
    assert one.step() == []
    most = time.monotonic() - begun
    (first,) = [*one.step(), *one.step()]
    assert first.tokens == 1
    assert 0 <= first.queued_s < most


def test_a_prompt_is_scored_once_for_all_its_answers(thinker):
    told: list[News] = []

    async def ask() -> Call:
        door = Door(lambda: start_replica({"m": Served("m", thinker)}, RUNNING), 1, note=told.extend)
        await door.ready.wait()
        call = Call(door, [job(str(n), score_prompt=True) for n in range(3)], queue_s=60.0)
        call.submit()
        async for _ in call.news():
            pass
        door.close()
        return call

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        call = runner.run(ask())
    assert [news.job for news in told if news.prompt_marks] == ["0"]
    assert [(len(said.prompt_marks), said.tokens, said.end) for said in call.said] == [(1200, 2, "length")] * 3
    assert call.said[0].prompt_marks == call.said[1].prompt_marks == call.said[2].prompt_marks
    assert call.usage == Usage(prompt=1200, hit=0, completion=6)


def test_an_echoed_prompt_is_billed_as_computed_and_streamed_as_it_is(client):
    body = {"model": "deepseek-reasoner", "prompt": "red ball " * 60, "logprobs": 1, "max_tokens": 3, "n": 2, "seed": 4}
    echoed = [client.post("/v1/completions", json={**body, "echo": True}).json() for _ in range(2)]
    assert [one["usage"]["prompt_cache_hit_tokens"] for one in echoed] == [0, 0]
    plain = client.post("/v1/completions", json=body).json()
    assert plain["usage"]["prompt_cache_hit_tokens"] >= 64
    chunks = events(client.post("/v1/completions", json={**body, "echo": True, "stream": True}))
    for number, (choice, alone) in enumerate(zip(echoed[0]["choices"], plain["choices"], strict=True)):
        assert choice["text"] == body["prompt"] + alone["text"]
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == number]
        assert "".join(one["text"] for one in mine) == choice["text"]
        tokens = [token for one in mine if one["logprobs"] for token in one["logprobs"]["tokens"]]
        assert tokens == choice["logprobs"]["tokens"]
    scored = client.post("/v1/completions", json={**body, "echo": True, "max_tokens": 0}).json()
    assert [one["text"] for one in scored["choices"]] == [body["prompt"]] * 2
    assert [one["finish_reason"] for one in scored["choices"]] == ["length"] * 2


def test_every_model_has_all_of_the_memory(thinker):
    with ExitStack() as opened:
        engines: list[Any] = [open_native(Served(name, thinker), RUNNING, opened).engine for name in "ab"]
        tokens = [engine.runner.cache_tokens for engine in engines]
    one_token = 2 * 2 * 2 * 16 * 4  # keys and values of two layers, two heads of 16 numbers of four bytes
    assert tokens == [int(0.1 * 2**30) // one_token] * 2
