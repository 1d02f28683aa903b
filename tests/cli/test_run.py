"""thinkery run as a process: stopped, continued, branched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thinkery.pipeline.read import open_run

QUICK = """
[train.grpo]
updates = 5000
group_size = 2
questions_per_update = 2
max_tokens = [[0, 96]]

[sinks]
to = ["tensorboard"]

[evaluate]
samples = 2
sampling = { max_tokens = 24 }
"""


@pytest.fixture
def folder(thinkery, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe of many quick updates on one's own data and reward."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text("def length(task, completion):\n    return min(len(completion.text), 9) / 9\n")
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(6) for b in range(6)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert thinkery("init", "--data", "my.jsonl", "--reward", "my.py:length", "--model", tiny_qwen)[0] == 0
    (tmp_path / "quick.toml").write_text(QUICK)
    return tmp_path


def interrupted(*words: str) -> tuple[int, str]:
    """Run a command until its third update or a little later, then press Ctrl-C; (exit code, stderr)."""
    command = [sys.executable, "-m", "thinkery.cli", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env) as run:
        assert run.stderr
        seen, pressed = [], False
        for line in run.stderr:
            seen.append(line)
            if not pressed and (update := re.search(r"step (\d+)/5000", line)) and int(update[1]) >= 3:
                run.send_signal(signal.SIGINT)
                pressed = True
        return run.wait(60), "".join(seen)


def test_what_continues_a_fresh_run_does_not_begin_it_anew(thinkery, folder: Path) -> None:
    words = ("run", "my.toml", "-c", "quick.toml", "--dir", "runs/f")
    code, err = interrupted(*words, "--fresh")
    assert code == 75, err
    assert err.rstrip().endswith("try: to continue: thinkery run my.toml -c quick.toml --dir runs/f")


def test_ctrl_c_stops_with_75_and_the_command_that_continues(thinkery, folder: Path) -> None:
    pytest.importorskip("tensorboard")
    words = ("run", "my.toml", "-c", "quick.toml", "--dir", "runs/a")
    code, err = interrupted(*words)
    assert code == 75, err
    assert err.rstrip().endswith("try: to continue: thinkery run my.toml -c quick.toml --dir runs/a")
    stopped = open_run(folder / "runs/a")
    assert stopped.steps["trained"].status == "stopped"
    assert [path.name for path in (folder / "runs/a/sinks/tensorboard").iterdir()] == [f"{stopped.id}-trained-1"]

    branching = (*words, "train.grpo.updates=1", "--branch", "runs/a@trained", "--dir", "runs/b")
    code, out, err = thinkery(*branching, "--dry-run", "--json")
    assert code == 0, err
    actions = {one["step"]: one["action"] for one in json.loads(out)}
    assert (actions["base"], actions["problems"], actions["trained"]) == ("done", "done", "resume")
    assert not (folder / "runs/b").exists()
    assert not list(folder.rglob("dry-run-*"))
    code, _, err = thinkery(*branching[:-1], "runs/a", "--dry-run")
    assert (code, "there is a run already" in err) == (2, True)
    code, _, err = thinkery(*branching)
    assert code == 0, err
    assert open_run(folder / "runs/b").artifacts["trained"].manifest["branched_from"]["at"] >= 3
    (folder / "runs/a").rename(folder / "runs/moved")
    code, _, err = thinkery(*branching)
    assert code == 0, err  # the branch needs its source no more
    (folder / "runs/moved").rename(folder / "runs/a")
    code, out, _ = thinkery(*words, "--dry-run", "--json")
    assert {one["step"]: one["action"] for one in json.loads(out)}["trained"] == "resume"
    code, _, err = thinkery(*words, "--seed", 7)
    assert code == 2
    assert "a run keeps its seed for life" in err


def test_a_part_of_a_run_says_how_much_of_it_is_done_and_suggests_what_there_is(thinkery, folder: Path) -> None:
    code, out, _ = thinkery("run", "my.toml", "--until", "problems", "--dir", "runs/part")
    assert code == 0
    assert re.search(r"is in runs/part: 3 of 7 steps in \d+s$", out, re.MULTILINE)
    assert "thinkery report" not in out, "no exam ran"
    assert out.endswith("  thinkery show runs/part\n  thinkery chat runs/part\n")
    code, out, _ = thinkery("run", "my.toml", "--only", "exam", "--dir", "runs/exam")
    assert out.endswith("  thinkery show runs/exam\n"), "nor is there a model to talk to"
