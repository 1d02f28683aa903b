"""Stages whose engines are on a Ray cluster, a real one of this machine, have its workers grade: with equal results."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.engine import heads
from tests.engine.asking import one_thread
from tests.stages.graded import TASKS, judge

from thinkery.core import Completion, Sampling, Task
from thinkery.engine import EngineConfig
from thinkery.errors import RankLost
from thinkery.launch.local import environments
from thinkery.pipeline.artifact import Dataset, Model, task_to_row
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.format import thinks_then_answers
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.evaluate import Evaluate, evaluate, sit_exam
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.reinforce import Reinforce, reinforce
from thinkery.tasks.sources import Source, load_tasks
from thinkery.train.grpo import Grpo

ray = pytest.importorskip("ray", reason="thinkery[ray] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.flaky(reruns=2)]
HERE = EngineConfig(deterministic=True, max_batch=8, max_len=96, processes=1)
THERE = HERE.model_copy(update={"ray": "local"})


@pytest.fixture
def base(tmp_path: Path) -> Model:
    return fetch(Run(tmp_path / "base", "base", seed=1), Fetch())


def exam_of(folder: Path) -> Dataset:
    """Problems and general prompts, eight together."""
    sources = [Source(source=name, split="held-out", limit=4) for name in ("world", "world-general")]
    writer = Run(folder, "exam", seed=1).dataset()
    for n, task in enumerate(load_tasks(sources, seed=1, purpose="exam")):
        writer.add(task_to_row(task), f"{n:04d}")
    return writer.finish()


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every recorded attempt, in order."""
    files = sorted(folder.glob("rollouts/*"))
    return [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]


def learnt(folder: Path, base: Model, engine: EngineConfig, grpo: Grpo) -> tuple[Any, ...]:
    """What is left of a short training: the weights, every attempt, the metrics but for times, and who judged here."""
    here: list[str] = []

    def own(task: Task, completion: Completion) -> float:
        here.append(task.id)
        return len(completion.text) / 100

    run = Run(folder, "zero", seed=1)
    rubric = Rubric(
        accuracy=accuracy, own=Part(own, weight=0.1, full_marks=0), format=Part(thinks_then_answers, weight=0.2)
    )
    cfg = Reinforce(grpo=grpo, engine=engine, watched=2)
    exam = exam_of(folder.with_suffix(".exam"))
    with one_thread():
        model = reinforce(run, cfg, base, TASKS, rubric, exam=exam, template="world-zero")
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in row.items() if k.partition("/")[0] not in ("time", "perf", "at")} for row in metrics]
    return model.manifest["content"], rows(folder), told, sorted(here)


@pytest.mark.parametrize("more", [{}, {"ahead": 1, "spare": 2, "span": 8}])
def test_what_is_learnt_from_grades_of_the_cluster_is_what_is_learnt_from_grades_of_this_process(tmp_path, base, more):
    grpo = Grpo(
        updates=3, questions_per_update=2, group_size=2, minibatches=1, max_tokens=((0, 24),), preflight=0,
        eval_every=2, **more,
    )  # fmt: skip
    there = learnt(tmp_path / "there", base, THERE, grpo)
    here = learnt(tmp_path / "here", base, HERE, grpo)
    assert there == here
    assert len(there[1]) == 3 * 2 * 2
    assert list(there[1][0]["scores"]) == ["accuracy", "own", "format"]
    assert not ray.is_initialized()


def test_an_exam_on_the_cluster_has_the_record_and_the_report_of_one_process(tmp_path, base):
    exam = exam_of(tmp_path / "exam")
    cfg = Evaluate(samples=2, sampling=Sampling(temperature=0.6, max_tokens=24), template="world-zero", chunk=4)
    made = {}
    for name, engine in (("there", THERE), ("here", HERE)):
        with one_thread():
            report = evaluate(
                Run(tmp_path / name, "eval-base", seed=1), cfg.model_copy(update={"engine": engine}), base, exam
            )
        made[name] = report.data, rows(tmp_path / name)
    assert made["there"] == made["here"]
    assert {"accuracy", "general"} <= {name for row in made["there"][1] for name in row["scores"]}


def test_the_graders_of_exams_and_of_training_are_other_processes(tmp_path, base):
    paper = Evaluate(samples=2, sampling=Sampling(max_tokens=4)).paper(TASKS[:4], Rubric(accuracy=judge))
    cfg = Evaluate(template="world-zero", engine=THERE)
    sit_exam(Run(tmp_path / "exam", "eval-base", seed=1), cfg, base, paper)
    grpo = Grpo(updates=1, questions_per_update=2, group_size=2, minibatches=1, max_tokens=((0, 4),), preflight=0)
    rubric = lambda update: Rubric(accuracy=judge)  # noqa: E731
    run, cfg = Run(tmp_path / "zero", "zero", seed=1), Reinforce(grpo=grpo, engine=THERE)
    reinforce(run, cfg, base, TASKS, rubric, template="world-zero")
    for folder, attempts in (("exam", 8), ("zero", 4)):
        judges = [row["scores"]["accuracy"]["reason"] for row in rows(tmp_path / folder)]
        assert len(judges) == attempts
        assert len(set(judges)) == 1, "a cluster of one processor has one grader"
        assert judges[0] != str(os.getpid())


RANKED = """
import os, sys
from pathlib import Path
from tests.stages.graded import learn
from thinkery.pipeline.ranks import joined
from thinkery.pipeline.run import Run

with joined(os.environ) as ranks:
    learn(Run(Path(sys.argv[2]), "zero", seed=1, ranks=ranks), sys.argv[1], updates=1)
"""


def test_ranks_that_judge_together_share_out_the_processors_of_the_cluster(tmp_path):
    with heads.head(processors=2) as cluster:
        address = f"127.0.0.1:{cluster.port}"
        command = [sys.executable, "-c", RANKED, address, str(tmp_path / "zero")]
        ranks = [
            subprocess.Popen(command, env={**heads.ENV, **env}, stderr=subprocess.PIPE, text=True)
            for env in environments(2).values()
        ]
        said = [rank.communicate(timeout=200)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], said
    judges = [row["scores"]["accuracy"]["reason"] for row in rows(tmp_path / "zero")]
    assert len(judges) == 8 * 2
    first, second = judges[0], judges[2]
    assert judges == [first, first, second, second] * 4, (
        "every second question is a rank's, which has one worker of two"
    )
    assert first != second


LEARNING = f"""{heads.OPEN}
from pathlib import Path
from tests.stages.graded import learn
from thinkery.pipeline.run import Run

def work(address, folder):
    run = Run(Path(folder), "zero", seed=1)
    run.on_metrics = lambda row: at_work()
    learn(run, address, updates=10**6)

main(work)
"""


@pytest.mark.parametrize("way", heads.WAYS)
def test_who_samples_and_grades_on_a_cluster_whose_head_dies_stops_resumably(way, tmp_path):
    code, said, seconds = heads.ended(way, LEARNING, str(tmp_path / "zero"))
    assert code == RankLost.exit_code, said
    assert "the same command continues" in said
    assert seconds < heads.END_S
