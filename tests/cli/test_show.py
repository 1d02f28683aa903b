"""thinkery show --watch beside a second process that works on the run."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinkery.cli.recipe import open_recipe
from thinkery.cli.show import folded
from thinkery.pipeline.home import Home
from thinkery.pipeline.lock import locked
from thinkery.pipeline.read import open_run
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import ordered

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


def frame(directory: Path, rows: int, columns: int) -> list[str]:
    """The lines that a terminal of this size shows first when it watches a run."""
    here, there = os.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environ["TERM"] = "xterm-256color"
    with subprocess.Popen([*WATCH, str(directory)], stdout=there, stderr=there, env=environ) as watching:
        shown, until = b"", time.monotonic() + 60
        while time.monotonic() < until:
            if select.select([here], [], [], 1.0)[0]:
                shown += os.read(here, 65536)
            elif re.search(rb"\n.*(Report|below)[^\n]*$", shown):
                break  # nothing changes any more
        watching.kill()
    os.close(there)
    os.close(here)
    return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown.decode()).splitlines()


def test_a_small_terminal_shows_the_running_step_and_the_alarms_of_a_long_run(tmp_path: Path) -> None:
    steps = ordered(open_recipe(["tiny"], environ={}).graph())
    home = Home(tmp_path, 0, steps)
    zero = next(step for step in steps if step.name == "zero")
    folder, about = home.open_folder(zero, {})
    run = Run(folder, "zero", about=about, events=home.events)
    home.events.add("begin", "zero", zero.key)
    run.metrics(7, {"completion/truncated": 0.62, "reward/mean": 0.41})
    run.progress(7, 75)
    run.alarm(
        "truncated", "62% of completions are cut at the length limit", "grpo.max_tokens", "allow twice the length"
    )
    with locked(tmp_path):
        small, wide = frame(tmp_path, 24, 80), frame(tmp_path, 50, 300)
    assert len(small) <= 24
    assert max(map(len, small)) <= 80
    assert small[1] == "zero  step 7/75  cut 62%  reward 0.41"
    assert small[2].startswith("alarm in zero: truncated: 62% of completions")
    assert any(re.search(r"● .*zero +Model +running 7/75", line) for line in small)
    assert re.fullmatch(r"… \d+ below", small[-1])
    assert len(wide) == 3 + len(steps)
    assert any(re.search(r"● .*zero +Model +← base, problems, exam +running 7/75", line) for line in wide)


def test_lines_are_folded_around_the_one_that_matters() -> None:
    lines = [str(number) for number in range(10)]
    assert folded(lines, 10, 4) == lines
    assert folded(lines, 5, 4) == ["… 3 above", "3", "4", "5", "… 4 below"]
    assert folded(lines, 5, 1) == ["0", "1", "2", "3", "… 6 below"]
    assert folded(lines, 5, 9) == ["… 6 above", "6", "7", "8", "9"]


def test_watching_and_machine_output_exclude_each_other(thinkery, tmp_path: Path) -> None:
    assert thinkery("show", "--watch", "--json", tmp_path)[0] == 2
