"""Servers of vLLM as one engine: the samples of one engine, whatever happens to the servers.

pytest -m slow tests/engine/test_vllm_pool.py      # with servers of vLLM itself; THINKERY_VLLM names its Python
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.engine.asking import (
    alone,
    answers,
    drawn,
    killing,
    moved,
    newest,
    one_thread,
    requests,
    samples_as_one_engine,
    samples_once_though_one_is_killed,
    until_all_are_ready,
)
from tests.engine.copying import SETTINGS, Copying, copying
from tests.engine.test_vllm import FLOAT, agree_with_the_trainer, follows_the_weights, goes_on_under_other_weights
from tests.vllms import vllm_python

from thinkery.core import Sampling
from thinkery.engine import EngineConfig
from thinkery.engine.base import FollowingEngine
from thinkery.engine.vllm import VllmConfig, open_vllm
from thinkery.errors import ConfigError, EnvironmentLacks, InputError, RunFailed
from thinkery.model.hf import load_model
from thinkery.model.locate import locate
from thinkery.model.transformer import Transformer
from thinkery.tasks.world import ZERO_TEMPLATE


@pytest.fixture(scope="module")
def network(shape) -> Transformer:
    """Weights that the tests of this file move on in turn."""
    return drawn(shape)


@pytest.fixture(scope="module")
def servers(network, tokenizer, tmp_path_factory):
    """Two servers that know the network's first weights."""
    with copying(network, tokenizer, tmp_path_factory.mktemp("servers") / "model", 2) as servers:
        yield servers


@pytest.fixture(scope="module")
def started(network, tokenizer, servers):
    """One engine of both; as many threads here as there."""
    with one_thread(), open_vllm(network, tokenizer, of(servers)) as engine:
        yield engine
        folder = engine.members.folder
        assert folder.exists()
    assert not folder.exists()


@pytest.fixture
def engine(started):
    """The engine with the newest weights and nothing in flight."""
    return newest(started)


def of(servers: list[Copying]) -> VllmConfig:
    return SETTINGS.model_copy(update={"url": tuple(server.url for server in servers)})


def test_two_servers_sample_what_one_engine_samples_before_and_after_an_update(engine, network, tokenizer):
    assert isinstance(engine, FollowingEngine)
    samples_as_one_engine(engine, network, tokenizer)


def test_a_snapshot_is_what_the_weights_were_when_it_was_made(engine, network, tokenizer):
    snapshot, expected = engine.snapshot(engine.version + 1), alone(network, tokenizer, requests(2))
    moved(network)
    engine.take(snapshot)
    assert answers(engine, requests(2)) == expected


def test_a_group_stays_together_and_goes_where_least_is_to_do(engine):
    asked = [engine.submit(one) for one in requests(4)]
    engine.dispatch()
    assert [sorted(one.sent for one in place.asked.values()) for place in engine.places] == [[(0, 1, 2)] * 2] * 2
    for id in asked:
        engine.cancel(id)


def test_what_a_lost_server_had_not_finished_is_sampled_by_the_other_once(engine, servers, network, tokenizer):
    def kill(place) -> None:
        [killed] = [server for server in servers if server.url == place.link.place]
        killed.kill()
        killed.start()  # with the weights that it was first started with

    samples_once_though_one_is_killed(engine, network, tokenizer, kill)
    assert {place.link.place for place in engine.places} == {server.url for server in servers}


@pytest.mark.parametrize("who", ["started anew", "of another run"])
def test_a_server_with_other_weights_than_it_was_given_is_lost_and_given_them_again(
    engine, servers, network, tokenizer, who
):
    until_all_are_ready(engine)
    lost = engine.lost
    says = {"started anew": "default", "of another run": str(engine.version)}
    servers[0].say("/update_weight_version", new_version=says[who])
    assert answers(engine, requests()) == alone(network, tokenizer, requests())
    assert engine.lost == lost + 1
    until_all_are_ready(engine)
    assert answers(engine, requests()) == alone(network, tokenizer, requests())
    assert engine.lost == lost + 1


def test_weights_that_did_not_arrive_end_the_run_though_the_version_is_right(servers, network, tokenizer):
    with open_vllm(network, tokenizer, of(servers[:1])) as engine:
        stale = engine.snapshot(1)
        moved(network)
        fresh = engine.snapshot(2)
        with pytest.raises(RunFailed, match=r"does not sample from version 2.*canary differ"):
            engine.take(replace(fresh, weights=stale.weights))


def test_what_vllm_is_not_asked_for_is_said_here(servers, network, tokenizer):
    stops = replace(requests(1)[0], sampling=Sampling(stop=("x",)))
    with (
        pytest.raises(InputError, match="without stop strings"),
        open_vllm(network, tokenizer, of(servers[:1])) as engine,
    ):
        answers(engine, [stops])


def test_each_server_that_is_started_has_its_gpus_and_its_log_is_quoted(network, tokenizer, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport os\nprint('GPUs', os.environ['CUDA_VISIBLE_DEVICES'])\n")
    python.chmod(0o755)
    wanted = VllmConfig(python=str(python), devices=("2,3",), max_len=64)
    with (
        pytest.raises(EnvironmentLacks, match=r"vLLM's server ended \(found GPUs 2,3"),
        open_vllm(network, tokenizer, wanted) as engine,
    ):
        engine.submit(requests(1)[0])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_servers_of_vllm_itself_follow_the_weights_and_one_is_killed():
    network, tokenizer = load_model(locate("tiny"))
    two = FLOAT.model_copy(update={"python": vllm_python(), "devices": ("0", "0")})
    with open_vllm(network, tokenizer.with_template(ZERO_TEMPLATE), two) as engine:
        follows_the_weights(engine, network, tokenizer)
        goes_on_under_other_weights(engine, network, tokenizer)
        until_all_are_ready(engine)
        before = {server_of(place.link.worker.pid) for place in engine.places}
        agrees_though_one_is_killed(engine, network, tokenizer, lambda place: kill_server(place.link.worker.pid))
        assert engine.lost == 1
        [killed] = before - {server_of(place.link.worker.pid) for place in engine.places}
        assert not left_of(killed)


def agrees_though_one_is_killed(engine, network, tokenizer, kill) -> None:
    """Each sample comes once, as the trainer says, though the busiest member is killed meanwhile."""
    for events in killing(engine, requests(12, samples=8, max_tokens=60), kill).values():
        agree_with_the_trainer(network, tokenizer, events, 1e-3)


def kill_server(member: int) -> None:
    """Kill the server that a process has started."""
    os.kill(server_of(member), signal.SIGKILL)


def server_of(member: int) -> int:
    """The server that a process has started."""
    own = [pid for file in Path(f"/proc/{member}/task").glob("*/children") for pid in file.read_text().split()]
    [server] = [pid for pid in own if b"--served-model-name" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(server)


def left_of(server: int) -> list[int]:
    """What runs of a server: itself, and what it has started."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, group, *_ = file.read_text().rpartition(")")[2].split()
            if int(group) == server and state != "Z":
                found.append(int(file.parent.name))
    return found


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="url names servers that run already"):
        VllmConfig(python="python", url=("http://127.0.0.1:1",))
    with pytest.raises(ValidationError, match="set python too"):
        VllmConfig(devices=("1",))
    with pytest.raises(ValidationError, match="arguments cut the model into 0 parts"):
        VllmConfig(arguments=("-tp=0",))
    with pytest.raises(ValidationError, match="invalid int value: 'two'"):
        VllmConfig(arguments=("--tensor-parallel-size=two",))


@pytest.mark.parametrize(
    ("arguments", "gpus"),
    [
        ("", 1),
        ("--seed=7 --tensor-parallel-size=2 --enforce-eager", 2),
        ("--tensor_parallel_size 4 -pp=2", 8),
        ("-tp 2 -dp 3 -dpn 1 --max-num-batched-tokens=64", 6),
    ],
)
def test_a_server_takes_as_many_gpus_as_its_arguments_cut_the_model_into(arguments, gpus):
    assert VllmConfig(arguments=tuple(arguments.split())).gpus == gpus


def test_servers_that_are_named_are_not_looked_for_on_a_ray_cluster(network, tokenizer):
    on = EngineConfig(ray="auto")
    with (
        pytest.raises(ConfigError, match=r"vllm.devices names GPUs of this machine, but engine.ray"),
        open_vllm(network, tokenizer, VllmConfig(python="python", devices=("0",)), on),
    ):
        pass
