"""Engines as actors of a Ray cluster, a real one of this machine: the samples of one engine, whatever is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from tests.engine.asking import (
    FIXED,
    drawn,
    moved,
    newest,
    one_thread,
    samples_as_one_engine,
    samples_once_though_one_is_killed,
)

from thinkery.engine.pool import open_pool
from thinkery.errors import ConfigError, EnvironmentLacks, RunFailed
from thinkery.model.transformer import Transformer

ray = pytest.importorskip("ray", reason="thinkery[ray] is not installed")
TWO = FIXED.model_copy(update={"processes": 2, "ray": "local"})


@pytest.fixture(scope="module")
def network(shape) -> Transformer:
    """Weights that the tests of this file move on in turn."""
    return drawn(shape)


def test_a_cluster_that_does_not_answer_is_named(network, tokenizer):
    nobody = TWO.model_copy(update={"ray": "ray://127.0.0.1:1"})
    with (
        pytest.raises(EnvironmentLacks, match=r"no Ray cluster answers.*refused"),
        open_pool(network, tokenizer, nobody),
    ):
        pass


@pytest.fixture(scope="module")
def started(network, tokenizer):
    """One cluster and one pool for all tests of this file, since starting takes seconds; one thread here as there."""
    with one_thread(), open_pool(network, tokenizer, TWO) as engine:
        yield engine
    assert not ray.is_initialized()


@pytest.fixture
def engine(started):
    """The pool with the newest weights and nothing in flight."""
    return newest(started)


def on_cluster(test):
    """Slow, and tried again: Ray gives up where its own processes take longer than 30 s to start."""
    return pytest.mark.slow(pytest.mark.flaky(reruns=2)(test))


def pid_of(place) -> int:
    """The process of an actor."""
    return ray.get(place.link.actor.__ray_call__.remote(lambda actor: os.getpid()), timeout=120)


def kill_actor(place) -> None:
    """Kill an actor, and not by way of Ray."""
    os.kill(pid_of(place), signal.SIGKILL)


@on_cluster
def test_two_actors_sample_what_one_engine_samples_before_and_after_an_update(engine, network, tokenizer):
    samples_as_one_engine(engine, network, tokenizer)


@on_cluster
def test_what_a_killed_actor_had_not_finished_is_sampled_by_others_once(engine, network, tokenizer):
    samples_once_though_one_is_killed(engine, network, tokenizer, kill_actor)


@on_cluster
def test_an_actor_whose_work_breaks_off_is_lost_at_once_though_it_lives(engine, network, tokenizer):
    def break_off(place) -> None:
        place.link.actor.send.remote("no order")

    samples_once_though_one_is_killed(engine, network, tokenizer, break_off)


@on_cluster
def test_weights_that_did_not_arrive_end_the_run(engine, network):
    stale = engine.snapshot(engine.version + 1)
    moved(network)
    fresh = engine.snapshot(engine.version + 1)
    with pytest.raises(RunFailed, match="canary differ"):
        engine.take(replace(fresh, weights=stale.weights))


@on_cluster
def test_more_engines_than_the_cluster_has_processors_for_are_refused(started, network, tokenizer):
    with (
        pytest.raises(ConfigError, match=r"no room for 99 engines \(found 2 CPU on 1 machines"),
        open_pool(network, tokenizer, TWO.model_copy(update={"processes": 99, "start_s": 1.0})),
    ):
        pass
