"""`thinkery eval --on`: a real Ray of this machine samples and judges, with the attempts of an evaluation here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from thinkery.cli.eval import ask_all, new_plans
from thinkery.cli.main import parse
from thinkery.core import Completion, Score, Task, rule
from thinkery.evals.suites import SUITES, Suite
from thinkery.rewards.rubric import Rubric
from thinkery.tasks.world import problems

pytest.importorskip("ray", reason="thinkery[ray] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.flaky(reruns=2)]  # Ray gives up where its own processes start slowly
HOW = ("--template", "world-zero", "-k", "2", "--max-tokens", "48")


@rule
def judge(task: Task, completion: Completion) -> Score:
    """Who judges, as the reason."""
    return Score(1.0, str(os.getpid()))


def rows(folder: Path) -> dict[tuple[str, int], dict]:
    """Every attempt that is kept."""
    kept = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
    return {(row["task"], row["sample"]): row for row in kept}


def test_an_evaluation_on_a_cluster_has_the_attempts_and_numbers_of_one_here(tmp_path):
    command = [sys.executable, "-m", "thinkery.cli", "eval", "tiny", "--source", "world", "--limit", "12", *HOW]
    told = [
        json.loads(subprocess.check_output([*command, "--json", "--out", str(tmp_path / name), *on], timeout=280))
        for name, on in (("here", ()), ("there", ("--on", "local")))
    ]
    assert len(rows(tmp_path / "here/world")) == 24
    assert rows(tmp_path / "there/world") == rows(tmp_path / "here/world")
    assert told[0]["results"] == told[1]["results"]
    settings = [json.loads((tmp_path / name / "world/asked.json").read_text()) for name in ("here", "there")]
    assert settings[0] == settings[1], "where it was sampled is no part of what was asked"


def test_rules_are_judged_by_workers_of_the_cluster(tmp_path, monkeypatch):
    tasks = list(problems("train", 1, 4, kinds=("chain",)))
    suite = Suite("who judges", lambda file: iter(tasks), rubric=lambda: Rubric(accuracy=judge))
    monkeypatch.setitem(SUITES, "who", suite)
    args = parse(["eval", "tiny", "--suite", "who", *HOW, "--out", str(tmp_path), "--on", "local"])
    with ExitStack() as held:
        plans = new_plans(args)
        ask_all(plans, [held.enter_context(plan.open()) for plan in plans], args.on)
    judges = {row["scores"]["accuracy"]["reason"] for row in rows(tmp_path / "who").values()}
    assert len(rows(tmp_path / "who")) == 8
    assert judges
    assert str(os.getpid()) not in judges


def test_a_cluster_that_does_not_answer_is_named(tmp_path):
    command = [sys.executable, "-m", "thinkery.cli", "eval", "tiny", "--source", "world", "--limit", "1", *HOW]
    command += ["--out", str(tmp_path), "--on", "ray://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr
    assert "no Ray cluster answers" in done.stderr
