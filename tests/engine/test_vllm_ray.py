"""Servers of vLLM in actors of a Ray cluster, a real one of this machine: one engine's samples, whatever is killed.

pytest -m slow tests/engine/test_vllm_ray.py      # one of them with vLLM itself; THINKERY_VLLM names its Python

Tests with a cluster of their own come first, since that of the others lasts to the end of this file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.engine.asking import (
    drawn,
    newest,
    one_thread,
    requests,
    samples_as_one_engine,
    samples_once_though_one_is_killed,
    until_all_are_ready,
)
from tests.engine.copying import SETTINGS, STARTED, program
from tests.engine.test_ray import kill_actor, on_cluster, pid_of
from tests.engine.test_vllm import FLOAT, follows_the_weights, goes_on_under_other_weights
from tests.engine.test_vllm_pool import agrees_though_one_is_killed, kill_server, left_of, server_of
from tests.vllms import vllm_python

from thinkery.engine import EngineConfig
from thinkery.engine.base import FollowingEngine
from thinkery.engine.vllm import open_vllm
from thinkery.errors import ConfigError, EnvironmentLacks
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.model.transformer import Transformer
from thinkery.tasks.world import ZERO_TEMPLATE

ray = pytest.importorskip("ray", reason="thinkery[ray] is not installed")
ON = EngineConfig(ray="local", processes=2)

SAYS_GPUS = f"#!{sys.executable}\nimport os\nprint('GPUs', os.environ['CUDA_VISIBLE_DEVICES'])\n"
"""A Python that says which GPUs it has, and ends."""


@pytest.fixture(scope="module")
def network(shape) -> Transformer:
    """Weights that the tests of this file move on in turn."""
    return drawn(shape)


@contextmanager
def with_gpus(count: int) -> Iterator[None]:
    """A cluster that takes itself to have so many GPUs."""
    ray.init("local", num_cpus=2, num_gpus=count, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_server_has_the_gpus_that_ray_gives_its_actor(network, tokenizer, tmp_path):
    two = SETTINGS.model_copy(update={"python": program(tmp_path, SAYS_GPUS), "arguments": ("-tp=2",)})
    four = two.model_copy(update={"arguments": ("-tp=4",)})
    any_number = ON.model_copy(update={"processes": 0, "start_s": 1.0})
    with one_thread(), with_gpus(3):
        with (
            pytest.raises(EnvironmentLacks, match=r"vLLM's server ended \(found GPUs \d,\d"),
            open_vllm(network, tokenizer, two, any_number) as engine,
        ):
            engine.submit(requests(1)[0])
        with (
            pytest.raises(ConfigError, match=r"no room for 1 engines \(found 2 CPU, 3 GPU on 1 machines"),
            open_vllm(network, tokenizer, four, any_number),
        ):
            pass


@pytest.mark.slow
def test_where_thinkerys_own_python_has_no_vllm_that_is_said(network, tokenizer):
    one = ON.model_copy(update={"processes": 1})
    with (
        pytest.raises(EnvironmentLacks, match=r"(?s)vLLM's server ended.*No module named 'vllm'"),
        open_vllm(network, tokenizer, SETTINGS, one) as engine,
    ):
        engine.submit(requests(1)[0])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_actors_with_vllm_itself_follow_the_weights_and_one_is_killed():
    network, tokenizer = load_model(locate("tiny"))
    cfg = FLOAT.model_copy(update={"python": vllm_python()})
    with open_vllm(network, tokenizer.with_template(ZERO_TEMPLATE), cfg, ON) as engine:
        follows_the_weights(engine, network, tokenizer)
        goes_on_under_other_weights(engine, network, tokenizer)
        until_all_are_ready(engine)
        before = servers_of(engine)
        agrees_though_one_is_killed(engine, network, tokenizer, kill_actor)
        assert engine.lost == 1
        until_ended(before - servers_of(engine))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Where actors write weights."""
    return tmp_path_factory.mktemp("place") / "weights"


@pytest.fixture(scope="module")
def started(network, tokenizer, weights, tmp_path_factory):
    """One engine of two actors for the tests that follow; one thread here as there."""
    python = program(tmp_path_factory.mktemp("bin"), STARTED)
    cfg = SETTINGS.model_copy(update={"python": python, "folder": str(weights)})
    with one_thread(), open_vllm(network, tokenizer, cfg, ON) as engine:
        yield engine
        servers = servers_of(engine)
    assert not ray.is_initialized()
    until_ended(servers)


@pytest.fixture
def engine(started):
    """The engine with the newest weights and nothing in flight."""
    return newest(started)


def until_ended(servers: set[int]) -> None:
    """Wait until nothing of these servers runs."""
    end = time.monotonic() + 60
    while any(left_of(server) for server in servers):
        time.sleep(0.1)
        assert time.monotonic() < end


def servers_of(engine) -> set[int]:
    """The servers that the actors have started."""
    return {server_of(pid_of(place)) for place in engine.places}


@on_cluster
def test_two_actors_sample_what_one_engine_samples_before_and_after_an_update(engine, weights, network, tokenizer):
    assert isinstance(engine, FollowingEngine)
    samples_as_one_engine(engine, network, tokenizer)
    assert not list(weights.iterdir())


@on_cluster
@pytest.mark.parametrize("kill", [kill_actor, lambda place: kill_server(pid_of(place))], ids=["actor", "server"])
def test_what_a_lost_actor_had_not_finished_is_sampled_by_the_other_once(engine, network, tokenizer, kill):
    before = servers_of(engine)
    samples_once_though_one_is_killed(engine, network, tokenizer, kill)
    ended = before - servers_of(engine)
    assert len(ended) == 1
    until_ended(ended)
