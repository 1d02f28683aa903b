"""thinkery run --procs: stopped, killed, continued with another number of processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from thinkery.errors import RankLost
from thinkery.launch.local import outcome
from thinkery.launch.logs import begin_log, errors_of, last_words
from thinkery.pipeline.read import open_run

TINY = """
extends = "tiny"

[problems]
sources = [{ source = "world", kind = "chain", limit = 12 }]

[zero]
watched = 4

[zero.grpo]
updates = 40
questions_per_update = 2
group_size = 2
max_tokens = [[0, 12]]
preflight = 0
checkpoint_every = 1
eval_every = 10
"""
BEGINS = r"^--- attempt (\d+), \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ---\n"
"""The line with which an attempt begins in a log."""


def run(
    folder: Path,
    *words: str,
    at_update: int = 0,
    press: Callable[[int], None] | None = None,
    launcher: Sequence[str] = (),
) -> tuple[int, str]:
    """`thinkery run` on the tiny recipe; `press` gets the process id once, when an update from `at_update` shows."""
    command = [sys.executable, *launcher, "-m", "thinkery.cli"]
    command += ["run", "few.toml", "--until", "zero", "--dir", "runs/a", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    seen = []
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env
    ) as p:
        assert p.stderr
        for line in p.stderr:
            seen.append(line)
            if press and (update := re.search(r"step (\d+)/", line)) and int(update[1]) >= at_update:
                press(p.pid)
                press = None
        return p.wait(120), "".join(seen)


def signal_rank_1(launcher: int, number: int) -> None:
    """Send a signal to the second process that the launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (one,) = (pid for pid in children if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    os.kill(int(one), number)


def kill_rank_1(launcher: int) -> None:
    """As the system does when memory is short."""
    signal_rank_1(launcher, signal.SIGKILL)


def stop_rank_1(launcher: int) -> None:
    """It lives, and closes no connection."""
    signal_rank_1(launcher, signal.SIGSTOP)


def updates(folder: Path) -> list[int]:
    """The updates in the record of zero, in order."""
    (path,) = (folder / "runs/a/steps").glob("zero-*/metrics.jsonl")
    return [row["step"] for row in map(json.loads, path.read_text().splitlines()) if "optim/loss" in row]


def attempts(log: Path) -> list[str]:
    """What each attempt has said in a log, without the lines that begin them, which must be numbered."""
    numbers = re.findall(BEGINS, log.read_text(), re.MULTILINE)
    assert numbers == [str(n + 1) for n in range(len(numbers))]
    return re.sub(BEGINS, "\0", log.read_text(), flags=re.MULTILINE).split("\0")[1:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the tiny recipe made short."""
    (tmp_path / "few.toml").write_text(TINY)
    return tmp_path


@pytest.mark.slow
def test_a_run_on_two_processes_is_stopped_killed_and_continued_and_ends_on_one(folder: Path) -> None:
    code, err = run(folder, "--procs", "2", at_update=2, press=lambda pid: os.kill(pid, signal.SIGINT))
    assert code == 75, err
    assert err.rstrip().endswith("--dir runs/a --procs 2")
    assert open_run(folder / "runs/a").steps["zero"].status == "stopped"

    code, err = run(folder, "--procs", "2", "zero.grpo.policy.sharding=fsdp", at_update=8, press=kill_rank_1)
    assert code == 75, err
    assert re.search(r"rank 1 was killed \(found SIGKILL\)\s+try: the same command continues", err)

    code, err = run(folder, "--procs", "2", at_update=12, press=lambda pid: os.kill(pid, signal.SIGINT))
    assert code == 75, err
    stopped, killed, again = attempts(folder / "runs/a/logs/rank-1.txt")
    assert "rank 1 was killed (found SIGKILL)" in killed, "what ended the second attempt is there after the third"
    assert "killed" not in stopped + again
    assert len(attempts(folder / "runs/a/logs/rank-0.txt")) == 3

    code, err = run(folder)
    assert code == 0, err
    assert updates(folder) == list(range(1, 41))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_a_rank_that_says_nothing_ends_the_run_resumable(folder: Path, sharding: str) -> None:
    words = ("--procs", "2", f"zero.grpo.policy.sharding={sharding}")
    code, err = run(folder, *words, "watchdog.silence_s=3", at_update=2, press=stop_rank_1)
    assert code == 75, err
    assert re.search(r"rank 1 has given no sign of life for 3 s \(found rank 1 was last seen at [\w/]+\.py:\d+", err)
    code, err = run(folder, *words)
    assert code == 0, err
    assert updates(folder) == list(range(1, 41))
    why, _ = attempts(folder / "runs/a/logs/rank-0.txt")
    assert "rank 1 has given no sign of life for 3 s" in why


def test_two_processes_run_a_recipe_to_its_end(folder: Path) -> None:
    code, err = run(folder, "--procs", "2", "zero.grpo.updates=2", "zero.grpo.eval_every=1")
    assert code == 0, err
    assert updates(folder) == [1, 2]
    ended = open_run(folder / "runs/a")
    assert {step.status for step in ended.steps.values() if step.name in ("base", "problems", "zero")} == {"done"}
    assert len(list((folder / "runs/a/steps").glob("zero-*/rollouts/*.jsonl.gz"))) == 2
    kept = {path.name: path.read_text() for path in (folder / "runs/a/logs").iterdir()}
    assert sorted(kept) == ["rank-0.out.txt", "rank-0.txt", "rank-1.out.txt", "rank-1.txt"]
    assert "stage 6/6 zero  step 2/2" in err
    assert attempts(folder / "runs/a/logs/rank-0.txt") == [err], "what rank 0 says is seen and kept"
    assert f"run {ended.id} is in runs/a" in kept["rank-0.out.txt"]


def test_the_log_of_rank_0_has_its_error(folder: Path) -> None:
    code, err = run(folder, "--procs", "2", "--only", "nothing")
    assert code == 2, err
    assert re.search(r"error: .*nothing", err)
    (said,) = attempts(folder / "runs/a/logs/rank-0.txt")
    assert said in err
    assert "nothing" in said


def test_a_rank_that_fails_is_quoted_from_its_last_attempt_and_one_that_is_killed_has_it_in_its_log(tmp_path):
    log = errors_of(tmp_path, 1)
    for said in ("error: of yesterday\n", "something\n", "killed\n"):
        begin_log(tmp_path, 1)
        with log.open("a") as file:
            file.write(said)
    assert last_words(log) == "killed"
    with pytest.raises(RankLost, match="rank 1 was killed"):
        outcome({1: ProcessFailure(1, 0, -signal.SIGKILL, os.devnull)}, tmp_path)
    assert last_words(log) == f"error: {log}: rank 1 was killed (found SIGKILL)"
    begin_log(tmp_path, 1)
    assert last_words(log) == ""


def test_every_rank_of_torchrun_keeps_a_log(folder: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    code, err = run(folder, "zero.grpo.updates=2", "zero.grpo.eval_every=1", launcher=torchrun)
    assert code == 0, err
    kept = {path.name: path.read_text() for path in (folder / "runs/a/logs").iterdir()}
    assert sorted(kept) == ["rank-0.out.txt", "rank-0.txt", "rank-1.out.txt", "rank-1.txt"]
    assert "stage 6/6 zero  step 2/2" in kept["rank-0.txt"]
    assert "stage 6/6 zero  step 2/2" in err
    assert "stage" not in kept["rank-1.txt"]
