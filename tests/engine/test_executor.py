"""Judging on a Ray cluster, a real one of this machine: the verdicts of one process, whatever is killed."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.engine import heads
from tests.engine.asking import FIXED

from thinkery.core import Completion, Sampling, Score, Task, rule
from thinkery.engine import open_engine
from thinkery.errors import InputError, RankLost, Stalled
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks
from thinkery.rewards.language import consistency
from thinkery.rewards.rubric import Part, Rubric, Spread
from thinkery.rollout import rollouts

ray = pytest.importorskip("ray", reason="thinkery[ray] is not installed")
TASKS = [Task(f"t{n}", f"Say {n}") for n in range(6)]


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
def test_ranks_share_out_the_processors_of_a_cluster_and_each_has_a_worker(workers):
    from thinkery.engine.executor import open_executor

    counts = []
    for address, ranks in (("auto", 1), ("auto", 2), ("auto", 3), ("local", 2)):
        with open_executor(address, ranks=ranks) as executor:
            counts.append(executor.count)
    assert counts == [2, 1, 1, 2], "a local one is a rank's own"


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


WAITING = f"""{heads.OPEN}
def work(address):
    with open_executor(address, workers=1) as executor:
        assert executor.submit(abs, -1).result() == 1
        answer = executor.submit(time.sleep, 1000)
        at_work()
        answer.result()

main(work)
"""

ASKING = f"""{heads.OPEN}
def work(address):
    with open_executor(address, workers=1) as executor:
        assert executor.submit(abs, -1).result() == 1
        at_work()
        while True:
            executor.submit(abs, -1).result()

main(work)
"""


@on_cluster
@pytest.mark.parametrize("way", heads.WAYS)
def test_who_waits_for_an_answer_when_the_head_dies_stops_resumably(way):
    code, said, seconds = heads.ended(way, WAITING)
    assert code == Stalled.exit_code, said
    assert "the head of the Ray cluster has not answered for 3 s" in said
    assert "the same command continues" in said
    assert seconds < heads.END_S


@on_cluster
@pytest.mark.parametrize("way", heads.WAYS)
def test_who_asks_for_one_answer_after_the_other_when_the_head_dies_stops_resumably(way):
    code, said, seconds = heads.ended(way, ASKING)
    assert code == RankLost.exit_code, said
    assert "the same command continues" in said
    assert seconds < heads.END_S
