"""Judging on a Ray cluster, a real one of this machine: the verdicts of one process, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.engine.asking import FIXED

from thinkery.core import Completion, Sampling, Score, Task, rule
from thinkery.engine import open_engine
from thinkery.errors import InputError, Stalled
from thinkery.launch.local import free_port
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks
from thinkery.rewards.language import consistency
from thinkery.rewards.rubric import Part, Rubric, Spread
from thinkery.rollout import rollouts

ray = pytest.importorskip("ray", reason="thinkery[ray] is not installed")
TASKS = [Task(f"t{n}", f"Say {n}") for n in range(6)]
START_S = 120.0
"""How long Ray may take to start."""


@rule
def place(task: Task, completion: Completion) -> Score:
    """What is judged, as the reason."""
    return Score(len(completion.text) / 100, f"{task.id} {len(completion.tokens)}")


@rule
def who(task: Task, completion: Completion) -> Score:
    """Who judges, as the reason."""
    return Score(1.0, str(os.getpid()))


def refuse() -> None:
    """What a call may raise."""
    raise InputError("no such luck", where="there")


def on_cluster(test):
    """Slow, and tried again: Ray gives up where its own processes take longer than 30 s to start."""
    return pytest.mark.slow(pytest.mark.flaky(reruns=2)(test))


@pytest.fixture(scope="module")
def workers():
    """Two workers for all tests of this file that kill no cluster, since starting takes seconds."""
    from thinkery.engine.executor import open_executor

    with open_executor("local", workers=2, processors=2) as executor:
        yield executor
    assert not ray.is_initialized()


@on_cluster
def test_the_cluster_judges_as_this_process_does_also_after_losing_a_worker(network, tokenizer, workers):
    limit = 4
    rubric = Rubric(long=Part(rule(lambda task, said: float(len(said.tokens) > limit))), place=place)
    asked = {"sampling": Sampling(max_tokens=8), "samples": 3, "seed": 1}
    pids = {workers.submit(os.getpid).result() for _ in range(4)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    with open_engine(network, tokenizer, FIXED) as engine:

        def judged(rubric: Rubric):
            return {group.task.id: group for group in rollouts(engine, TASKS, rubric=rubric, **asked)}

        here, there = judged(rubric), judged(Spread(rubric, workers))
        judges = [attempt.scores["who"].reason for group in judged(Spread(Rubric(who=who), workers)).values()
                  for attempt in group.rollouts]  # fmt: skip
        os.kill(next(iter(pids)), signal.SIGKILL)
        again = judged(Spread(rubric, workers))
    assert here == there == again
    assert set(judges) == {str(pid) for pid in pids}
    assert all(group.judge_s > 0 for group in there.values())


@on_cluster
def test_mathematics_programs_form_and_language_are_judged_there_as_here(workers):
    math = Task("m", "What is a half of (x + 1)?", kind="math", gold="(x+1)/2", language="en")
    code = Task("c", "Add.", kind="code", language="en", info={"test": "assert add(1, 2) == 3", "entry_point": "add"})
    said = [
        (math, "\\frac{x}{2} + \\frac{1}{2}"), (math, "x"), (math, "\\frac{x+1"),
        (code, "```python\ndef add(a, b): return a + b\n```"), (code, "```python\ndef add(a, b): return a\n```"),
        (code, "none"),
    ]  # fmt: skip
    thought = "so we add the two numbers and 然后 see"
    rubric = Rubric(accuracy=accuracy, format=thinks, language=consistency)
    pairs = [
        (task, Completion(text, thought=thought, answer=f"\\boxed{{{text}}}" if task is math else text, closed=True))
        for task, text in said
    ]
    here = [verdict for task in (math, code) for verdict in rubric.judge([pair for pair in pairs if pair[0] is task])]
    assert [scores["accuracy"].value for scores, _ in here] == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert here[0][0]["language"] == Score(0.8, "80% of the words are en")
    spread = Spread(rubric, workers)
    assert [v for task in (math, code) for v in spread.judge([pair for pair in pairs if pair[0] is task])] == here


@on_cluster
def test_what_a_call_raises_is_raised_here(workers):
    with pytest.raises(InputError, match=r"^there: no such luck$"):
        workers.submit(refuse).result()


@on_cluster
def test_workers_that_say_nothing_are_not_waited_for_for_ever(workers):
    patient, workers.patience_s = workers.patience_s, 2.0
    try:
        began = time.monotonic()
        with pytest.raises(Stalled, match="none of 2 workers of the Ray cluster has answered for 2 s"):
            workers.submit(time.sleep, 8).result()
        assert 2 < time.monotonic() - began < 8
    finally:
        workers.patience_s = patient


WAITING = """
import sys, time
import thinkery.engine.ray
from thinkery.cli.main import fail
from thinkery.engine.executor import open_executor

thinkery.engine.ray.HEAD_S = 3.0
try:
    with open_executor(sys.argv[1], workers=1) as executor:
        assert executor.submit(abs, -1).result() == 1
        asked = executor.submit(time.sleep, 1000)
        print("asked", flush=True)
        asked.result()
except Exception as error:
    sys.exit(fail(error, debug=False))
"""


@contextmanager
def head() -> Iterator[tuple[int, int, subprocess.Popen[bytes]]]:
    """A cluster of one machine by `ray start`: the ports of its head and for clients, and the process it is."""
    port, clients = free_port(), free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"]
    command += [f"--port={port}", f"--ray-client-server-port={clients}", "--num-cpus=1", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(
        command, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield port, clients, process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of a session of its own with all that it has started."""
    for pid in [*descendants(process.pid), process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def descendants(pid: int) -> list[int]:
    """All that a process has started."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [one for child in children for one in (child, *descendants(child))]


@on_cluster
@pytest.mark.parametrize("place", ["ray://127.0.0.1:{clients}", "127.0.0.1:{port}"])
def test_who_waits_for_an_answer_when_the_head_dies_stops_resumably(place):
    with head() as (port, clients, cluster):
        address = place.format(port=port, clients=clients)
        env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        until = time.monotonic() + START_S
        while True:
            waiting = subprocess.Popen(
                [sys.executable, "-c", WAITING, address], env=env, stdout=-1, stderr=-1, text=True
            )
            assert waiting.stdout
            if waiting.stdout.readline() == "asked\n":
                break
            _, said = waiting.communicate()
            assert time.monotonic() < until, said  # before, the head may not be there yet
        if address.startswith("ray://"):
            end(cluster)
        else:
            for pid in descendants(cluster.pid):
                if Path(f"/proc/{pid}/comm").read_text() == "gcs_server\n":
                    os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        _, said = waiting.communicate(timeout=120)
        assert waiting.returncode == Stalled.exit_code, said
        assert "the head of the Ray cluster has not answered for 3 s" in said
        assert "the same command continues" in said
        assert time.monotonic() - killed < 60
