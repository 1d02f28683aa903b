"""thinkery show --watch beside a second process that works on the run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinkery.pipeline.read import open_run

TOY = Path(__file__).parents[1] / "pipeline" / "toy.py"
WATCH = [sys.executable, "-m", "thinkery.cli", "show", "--watch"]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A run directory in which another process has begun to work."""
    words = [sys.executable, str(TOY), str(tmp_path / "run"), "--pause", "0.1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
        while not (tmp_path / "run" / "events.jsonl").exists():
            assert worker.poll() is None
        yield tmp_path / "run", worker
        worker.kill()


def test_watching_a_live_run_follows_it_to_its_end(live: tuple[Path, subprocess.Popen]) -> None:
    directory, worker = live
    done = subprocess.run([*WATCH, str(directory)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert worker.wait() == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"run {open_run(directory).id} in {directory}, seed 3, begun ")
    assert sum("chain" in line and "running" in line for line in lines) > 2
    assert any(re.fullmatch(r"chain  step \d+/60  reward 0\.\d+  [\d.]+ s/it  ETA \d+s", line) for line in lines)
    assert any(re.fullmatch(r"● +rows +Dataset +← chain +done \d+s", line.lstrip("├└│─ ")) for line in lines)
    assert re.fullmatch(r".*● +weights +Model +← rows +done \d+s", lines[-1])


def test_on_a_terminal_a_finished_run_is_shown_and_left(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(TOY), str(tmp_path), "--pause", "0"], check=True, capture_output=True)
    here, there = os.openpty()
    subprocess.run([*WATCH, str(tmp_path)], stdout=there, check=True, timeout=60)
    os.close(there)
    shown = os.read(here, 65536).decode()
    os.close(here)
    assert re.search(r"● +weights +Model +← rows +done", shown)
    assert shown.endswith("\x1b[?25h"), "the cursor is back"


def test_watching_and_machine_output_exclude_each_other(thinkery, tmp_path: Path) -> None:
    assert thinkery("show", "--watch", "--json", tmp_path)[0] == 2
