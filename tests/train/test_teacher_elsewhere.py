"""A teacher in other processes, on a Ray cluster or behind servers of vLLM says what one beside the student says.

pytest -m slow tests/train/test_teacher_elsewhere.py      # also with Ray, and with vLLM; THINKERY_VLLM names its Python
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.engine.copying import SETTINGS, STARTED, Copying, copying, program
from tests.train.conftest import tiny_network, tiny_policy, tiny_tokenizer
from tests.vllms import vllm_python

from thinkery.engine import MembersConfig
from thinkery.engine.member import Text
from thinkery.engine.scoring import Scorers, open_scorers
from thinkery.engine.vllm import VllmConfig
from thinkery.errors import InputError, RunFailed, Stalled
from thinkery.model.hf import load_model, save_model
from thinkery.model.locate import locate
from thinkery.train.batch import Example
from thinkery.train.policy import Policy, PolicyConfig
from thinkery.train.teacher import asked, beside, run_teacher

WORK = partial(run_teacher, cfg=PolicyConfig(), device="cpu")
TWO = MembersConfig(processes=2)
ON = MembersConfig(processes=2, ray="local")


def drawn_attempts(count: int = 24, tokens: int = 250) -> list[Example]:
    """Attempts of 1 to 20 tokens, every two at one question."""
    drawn = random.Random(3)
    prompts = [[drawn.randrange(tokens) for _ in range(drawn.randint(1, 8))] for _ in range(count // 2)]
    said = [[drawn.randrange(tokens) for _ in range(drawn.randint(1, 20))] for _ in range(count)]
    return [Example([*prompts[n // 2], *own], learn_from=len(prompts[n // 2])) for n, own in enumerate(said)]


ATTEMPTS = drawn_attempts()


def near(judged: Any, abs: float = 1e-5) -> list[Any]:
    """As many numbers for each attempt, about these."""
    return [pytest.approx(one, abs=abs) for one in judged]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher's folder."""
    folder = tmp_path_factory.mktemp("teacher")
    save_model(folder, tiny_network(seed=5), tiny_tokenizer())
    return folder


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A student that packs its attempts into many micro-batches."""
    return tiny_policy(micro_batch_tokens=64)


@pytest.fixture(scope="module")
def scorers(model: Path) -> Iterator[Scorers]:
    """Two processes for all tests of this file."""
    with open_scorers(model, TWO, WORK) as scorers:
        yield scorers
        workers = [place.link.worker for place in scorers.places]  # pyright: ignore[reportAttributeAccessIssue]
    assert not any(worker.is_alive() for worker in workers)


def judged_beside(policy: Policy, model: Path, temperature: float = 1.0) -> Any:
    """What the teacher says in this process."""
    return beside(policy, policy.frozen(model), temperature)(ATTEMPTS)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_two_processes_say_what_a_teacher_beside_the_student_says(scorers, policy, model, temperature):
    here = judged_beside(policy, model, temperature)
    assert [len(one) for one in here] == [attempt.learnt for attempt in ATTEMPTS]
    assert asked(policy, scorers, ATTEMPTS, temperature) == near(here)


def test_a_micro_batch_is_judged_to_the_same_bits(scorers, policy, model):
    roomy = tiny_policy()
    [there] = scorers.logprobs([[Text(one.tokens, one.learn_from) for one in ATTEMPTS]], 1.0)
    assert there == judged_beside(roomy, model)


def test_attempts_that_are_none_are_not_asked_about(scorers, policy):
    assert asked(policy, scorers, [], 1.0) == []


def judged_though_one_is_killed(
    policy: Policy, scorers: Scorers, kill: Callable[[Any], object], temperature: float = 1.0
) -> list[Any]:
    """What is said though the busiest member is killed when the first batch has been judged."""
    told, killed = scorers.told, []

    def killing(place, said) -> None:
        told(place, said)
        busiest = max(scorers.places, key=lambda one: one.load)
        if not killed and busiest.load:
            killed.append(busiest)
            kill(busiest)

    scorers.told = killing
    lost = scorers.lost
    try:
        found = asked(policy, scorers, ATTEMPTS, temperature)
    finally:
        del scorers.told
    assert killed
    assert (scorers.lost, len(scorers.places)) == (lost + 1, 2)
    assert killed[0] not in scorers.places
    return found


def kill_process(place) -> None:
    """Kill a member at once."""
    os.kill(place.link.worker.pid, signal.SIGKILL)


def test_what_a_killed_process_had_not_judged_is_judged_by_another(scorers, policy, model):
    assert judged_though_one_is_killed(policy, scorers, kill_process) == near(judged_beside(policy, model))
    assert asked(policy, scorers, ATTEMPTS, 1.0) == near(judged_beside(policy, model))


def test_a_folder_without_a_model_is_said_here(tmp_path):
    with (
        pytest.raises(InputError, match="not a Hugging Face model folder"),
        open_scorers(tmp_path, MembersConfig(processes=1), WORK) as scorers,
    ):
        scorers.logprobs([[Text((1, 2), 1)]], 1.0)


def test_where_no_teacher_starts_in_time_the_run_stops_resumable(model):
    with (
        pytest.raises(Stalled, match=r"teacher_engine.start_s: none of 1 engines has started in 0.01 s") as stalled,
        open_scorers(model, MembersConfig(processes=1, start_s=0.01), WORK) as scorers,
    ):
        scorers.logprobs([[Text((1, 2), 1)]], 1.0)
    assert stalled.value.exit_code == 75


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Copying]]:
    """Two servers that answer as vLLM's do, of the teacher."""
    with copying(tiny_network(seed=5), tiny_tokenizer(), tmp_path_factory.mktemp("servers") / "model", 2) as servers:
        yield servers


def test_servers_that_run_already_say_what_a_teacher_beside_the_student_says_though_one_is_killed(
    servers, policy, model
):
    urls = SETTINGS.model_copy(update={"url": tuple(server.url for server in servers)})
    here = judged_beside(policy, model)

    def kill(place) -> None:
        [killed] = [server for server in servers if server.url == place.link.place]
        killed.kill()
        killed.start()

    with open_scorers(model, MembersConfig(), WORK, urls) as scorers:
        assert asked(policy, scorers, ATTEMPTS, 1.0) == near(here)
        assert judged_though_one_is_killed(policy, scorers, kill) == near(here)


def test_a_server_that_is_started_has_the_teachers_folder(policy, model, tmp_path):
    own = SETTINGS.model_copy(update={"python": program(tmp_path, STARTED)})
    with open_scorers(model, MembersConfig(), WORK, own) as scorers:
        assert asked(policy, scorers, ATTEMPTS, 1.0) == near(judged_beside(policy, model))
    assert {path.suffix for path in model.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}


def test_a_text_that_is_too_long_for_a_server_ends_the_run(servers, model):
    one = SETTINGS.model_copy(update={"url": (servers[0].url,)})
    with (
        pytest.raises(RunFailed, match=r"vLLM's server refuses a request.*longer than max_model_len"),
        open_scorers(model, MembersConfig(), WORK, one) as scorers,
    ):
        scorers.logprobs([[Text(range(64), 1)]], 1.0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_server_of_vllm_itself_says_what_a_teacher_beside_the_student_says():
    model = locate("tiny")
    policy = Policy(*load_model(model), PolicyConfig(micro_batch_tokens=256))
    own = VllmConfig(python=vllm_python(), dtype="float32", max_len=64, max_batch=16, kv_memory=0.25)
    with open_scorers(model, MembersConfig(), WORK, own) as scorers:
        assert asked(policy, scorers, ATTEMPTS, 1.0) == near(judged_beside(policy, model), abs=1e-3)


def on_cluster(test):
    """Slow, and tried again: Ray gives up where its own processes take longer than 30 s to start."""
    return pytest.mark.slow(pytest.mark.flaky(reruns=2)(test))


@on_cluster
def test_two_actors_say_what_a_teacher_beside_the_student_says_though_one_is_killed(policy, model):
    pytest.importorskip("ray", reason="thinkery[ray] is not installed")
    from tests.engine.test_ray import kill_actor

    here = judged_beside(policy, model)
    with open_scorers(model, ON, WORK) as scorers:
        assert asked(policy, scorers, ATTEMPTS, 1.0) == near(here)
        assert judged_though_one_is_killed(policy, scorers, kill_actor) == near(here)


@on_cluster
def test_actors_that_start_servers_say_what_a_teacher_beside_the_student_says(policy, model, tmp_path):
    pytest.importorskip("ray", reason="thinkery[ray] is not installed")
    own = SETTINGS.model_copy(update={"python": program(tmp_path, STARTED)})
    with open_scorers(model, ON, WORK, own) as scorers:
        assert asked(policy, scorers, ATTEMPTS, 1.0) == near(judged_beside(policy, model))
