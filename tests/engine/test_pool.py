"""Engines in processes of their own: the samples of one engine, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest
from tests.engine.asking import (
    FIXED,
    alone,
    answers,
    drawn,
    moved,
    newest,
    one_thread,
    requests,
    samples_as_one_engine,
    samples_once_though_one_is_killed,
)

from thinkery.engine import EngineConfig, Request, generate, sampled_dtype
from thinkery.engine import pool as pools
from thinkery.engine.canary import gap, text_logprobs
from thinkery.engine.delivery import Snapshot
from thinkery.engine.member import Take
from thinkery.engine.pool import TOLERANCE, open_pool
from thinkery.errors import InputError, RunFailed, Stalled
from thinkery.model.transformer import Transformer

POOL = FIXED.model_copy(update={"processes": 2})


@pytest.fixture(scope="module")
def network(shape) -> Transformer:
    """Weights that the tests of this file move on in turn."""
    return drawn(shape)


@pytest.fixture(scope="module")
def started(network, tokenizer):
    """One pool for all tests of this file, since starting a process takes seconds; as many threads here as there."""
    with one_thread(), open_pool(network, tokenizer, POOL) as engine:
        yield engine
        workers, folder = [place.link.worker for place in engine.places], engine.members.folder
        assert folder.exists()
    assert not any(worker.is_alive() for worker in workers)
    assert not folder.exists()


@pytest.fixture
def engine(started):
    """The pool with the newest weights and nothing in flight."""
    return newest(started)


def test_two_processes_sample_what_one_engine_samples_before_and_after_an_update(engine, network, tokenizer):
    samples_as_one_engine(engine, network, tokenizer)


def test_a_group_stays_together_and_goes_where_least_is_to_do(engine):
    asked = [engine.submit(one) for one in requests(5, samples=2)]
    engine.dispatch()
    assert sorted(len(place.asked) for place in engine.places) == [2, 3]
    assert all(one.sent == (0, 1) for place in engine.places for one in place.asked.values())
    for id in asked:
        engine.cancel(id)


def test_what_is_cancelled_ends_and_does_not_hold_up_new_weights(engine, network, tokenizer):
    waiting = [engine.submit(one) for one in requests(8, max_tokens=40)]
    engine.dispatch()
    engine.news.clear()
    for id in waiting:
        engine.cancel(id)
    ended = [(e.request, e.sample, e.completion.finish) for e in engine.step() if e.completion]
    assert sorted(ended) == sorted((id, n, "cancelled") for id in waiting for n in range(3))
    engine.take(engine.snapshot(engine.version + 1))
    assert answers(engine, requests(2)) == alone(network, tokenizer, requests(2))


def test_what_a_lost_process_had_not_finished_is_sampled_by_others_once(engine, network, tokenizer):
    def kill(place) -> None:
        os.kill(place.link.worker.pid, signal.SIGKILL)

    samples_once_though_one_is_killed(engine, network, tokenizer, kill)


def test_a_process_that_says_nothing_is_given_up_and_its_samples_are_sampled_by_others(
    engine, network, tokenizer, monkeypatch
):
    monkeypatch.setattr(engine, "cfg", engine.cfg.model_copy(update={"patience_s": 2.0}))
    asked, lost = requests(5), engine.lost
    stopped = engine.places[0].link.worker
    os.kill(stopped.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert answers(engine, asked) == alone(network, tokenizer, asked)
    assert 2.0 < time.monotonic() - began < 60
    assert (engine.lost - lost, stopped.exitcode) == (1, -signal.SIGKILL)


def test_where_no_process_starts_in_time_the_run_stops_resumable(network, tokenizer):
    hurried = POOL.model_copy(update={"processes": 1, "start_s": 0.01})
    with (
        pytest.raises(Stalled, match=r"engine.start_s: none of 1 engines has started in 0.01 s") as stalled,
        open_pool(network, tokenizer, hurried) as engine,
    ):
        engine.submit(requests(1)[0])
    assert stalled.value.exit_code == 75


def test_a_process_samples_in_the_fastest_format_and_is_held_to_it(network, tokenizer):
    fastest = EngineConfig(max_batch=8, max_len=64, dtype="fastest", processes=1)
    with open_pool(network, tokenizer, fastest) as engine:
        [(_, events)] = generate(engine, requests(1))
        assert engine.tolerance == TOLERANCE[sampled_dtype(network, fastest)]
        for event in events:
            text = [*event.prompt, *event.completion.tokens]
            expected = text_logprobs(network, text)[len(event.prompt) - 1 :]
            assert gap(event.completion.logprobs, expected) < engine.tolerance


def test_weights_that_did_not_arrive_end_the_run_though_the_version_is_right(engine, network):
    stale = engine.snapshot(engine.version + 1)
    moved(network)
    fresh = engine.snapshot(engine.version + 1)
    with pytest.raises(RunFailed, match=rf"does not sample from version {fresh.version}.*canary differ"):
        engine.take(replace(fresh, weights=stale.weights))


def test_a_process_that_takes_other_weights_than_it_was_given_ends_the_run(engine, monkeypatch):
    snapshot = engine.snapshot(engine.version + 1)

    def mistaken(place, given: Snapshot) -> None:
        place.tell(Take(given.weights, given.version + 5, given.canary))
        place.unanswered, place.ready = 1, False

    monkeypatch.setattr(pools.Place, "deliver", mistaken)
    found = rf"version {snapshot.version + 5} instead of {snapshot.version}"
    with pytest.raises(RunFailed, match=rf"an engine did not take the new weights.*{found}"):
        engine.take(snapshot)


def test_what_cannot_be_sent_to_another_process_is_refused(engine):
    with pytest.raises(InputError, match="cannot be sent to another process"):
        engine.submit(replace(requests(1)[0], alternatives=2))


def test_what_a_process_cannot_do_is_said_here(engine):
    with pytest.raises(InputError, match="leaves no room"):
        answers(engine, [Request((1,), prompt=tuple(range(128)))])


def test_too_many_lost_processes_end_the_run(engine, monkeypatch):
    monkeypatch.setattr(pools, "RESTARTS", 0)
    os.kill(engine.places[0].link.worker.pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match="engines in a row were lost"):
        answers(engine, requests(20))
