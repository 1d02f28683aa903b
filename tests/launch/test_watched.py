"""A run on a Ray cluster whose process is ended from within stops resumably; what it says by itself stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

NOBODY = "zero.engine.ray=ray://127.0.0.1:1"
RUN = [sys.executable, "-m", "thinkery.cli", "run", "tiny", NOBODY, "--until", "problems"]


def started(folder: Path, ends: str, *words: str) -> subprocess.Popen[str]:
    """The run, in whose watched process some Python is executed from the beginning."""
    (folder / "sitecustomize.py").write_text(
        f"import os, signal, threading\nif 'THINKERY_TELL_END' in os.environ: {ends}\n"
    )
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.Popen(
        [*RUN, "--dir", str(folder / "run"), *words],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("end", "found"), [("os._exit(1)", "exit code 1"), ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL")]
)
def test_a_process_that_is_ended_from_within_can_be_continued(tmp_path, end, found):
    run = started(tmp_path, end)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 75
    assert found in said
    assert "the same command continues" in said


def test_what_a_run_says_by_itself_stays_its_exit_code(tmp_path):
    done = started(tmp_path, "None")
    assert done.communicate(timeout=120)[1].count("error") == 0
    assert done.returncode == 0
    wrong = started(tmp_path, "None", "--only", "nothing")
    assert "nothing" in wrong.communicate(timeout=120)[1]
    assert wrong.returncode == 2


def test_a_run_that_nobody_watches_any_more_stops(tmp_path):
    """The command that watches it is killed while it works."""
    note = tmp_path / "pid"
    run = started(tmp_path, f"open({str(note)!r}, 'w').write(str(os.getpid()))", "--until", "zero")
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "run.json").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    run.kill()
    run.communicate(timeout=120)  # its output ends with the run itself
    while alive(int(note.read_text())):
        assert time.monotonic() < until
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    try:
        return ") Z" not in (Path("/proc") / str(pid) / "stat").read_text()
    except FileNotFoundError:
        return False
