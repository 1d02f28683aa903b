"""The progress line, the bars of a terminal, and the time that is left."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer
from thinkery.pipeline.progress import Live, Progress, duration, headline, open_progress
from thinkery.pipeline.tee import Log, Tee
from thinkery.train.metrics import group_metrics


def groups_of(right: tuple[int, ...]) -> list[Group]:
    """A group of ten attempts of ten tokens for each number of right ones; the very first attempt is cut."""
    made = []
    for place, count in enumerate(right):
        task = Task(f"sum/{place}", "What is 1 + 2?", "math", "3")
        ends = ["length" if place == sample == 0 else "stop" for sample in range(10)]
        said = [Completion("3", (5,) * 10, (-1.0,) * 10, end, answer="3") for end in ends]
        paid = [float(sample < count) for sample in range(10)]
        made.append(
            Group(
                task, tuple(Rollout(task, (1,), s, {"accuracy": Score(p)}, p) for s, p in zip(said, paid, strict=True))
            )
        )
    return made


def test_the_progress_line_reads_like_the_one_in_the_specification():
    out, times = io.StringIO(), iter([0.0, 0.0, 1.9, 3.8])
    line = Progress(out, clock=lambda: next(times))
    line.stage("reason", 2, 6)
    tokenizer = Tokenizer.load(locate("tiny"))
    for step, right in ((199, (10, 0, 3, 3, 3)), (200, (10, 0, 3, 3, 4))):
        line.update(step, 1000, headline(group_metrics(groups_of(right), tokenizer)))
    assert out.getvalue().splitlines() == [
        "stage 2/6 reason  step 199/1000  cut 2%  reward 0.38  acc 0.38  len 10  flat 40%",
        "stage 2/6 reason  step 200/1000  cut 2%  reward 0.4 (+0.02)  acc 0.4  len 10  flat 40%  1.9 s/it  ETA 25m",
    ]


def test_the_time_left_of_the_run_corrects_what_was_expected_by_what_was_seen():
    out, times = io.StringIO(), iter([0.0, 100.0, 120.0, 140.0])
    line = Progress(out, {"zero": 50.0, "reason": 300.0, "align": 200.0}, clock=lambda: next(times))
    line.stage("zero", 1, 3, ["reason", "align"])
    line.stage("reason", 2, 3, ["align"])  # zero took 100 s and not 50
    line.update(1, 31, {})
    line.update(2, 31, {})  # 29 steps of 20 s are left, so that reason will have taken 620 s and not 300
    left = 29 * 20 + 200 * (100 + 620) / (50 + 300)
    assert out.getvalue().splitlines()[-1] == f"stage 2/3 reason  step 2/31  20 s/it  ETA 10m  all {duration(left)}"
    assert duration(left) == "17m"


def all_of(terminal: int) -> str:
    """What was shown on a terminal that nobody writes to any more, which comes in pieces."""
    pieces = []
    with suppress(OSError):  # the end of a terminal is an error
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces).decode()


def test_a_terminal_shows_two_bars_and_the_numbers_in_eighty_columns():
    here, there = os.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(there, "w") as screen, Live(screen, {"reason": 60.0, "align": 60.0}) as live:
        live.stage("reason", 2, 3, ["align"])
        live.note("a line above, as [it] is")
        for step in (1, 2):
            live.update(
                step, 4, {"cut": "0%", "reward": 0.25 * step, "acc": 0.5, "len": 312.0, "flat": "9%", "ent": 1.1}
            )
            time.sleep(1.05)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", all_of(here))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert "a line above, as [it] is" in lines
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"stage 2/3 reason \S+ 2/4  \d.* s/it  ETA \d+s", lines[-3]), lines[-6:]
    assert re.fullmatch(r"run +\S+ ETA \d+s", lines[-2]), lines[-6:]
    assert lines[-1] == "cut 0%  reward 0.5 (+0.25)  acc 0.5  len 312  flat 9%  ent 1.1"


def test_the_log_of_a_terminal_has_plain_lines_and_what_others_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here, there = os.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(there, "w") as screen:
        tee = Tee(screen, Log(tmp_path / "log.txt"))
        monkeypatch.setattr(sys, "stderr", tee)
        print("before", file=sys.stderr)
        with open_progress() as progress:
            progress.stage("zero", 1, 2)
            progress.update(1, 4, {"reward": 0.5})
            progress.note("a note")
            print("a warning", file=sys.stderr)
        print("after", file=sys.stderr, flush=True)
        assert sys.stderr is tee
    shown = all_of(here)
    kept = (tmp_path / "log.txt").read_text().splitlines()
    assert kept == ["before", "stage 1/2 zero  step 1/4  reward 0.5", "a note", "a warning", "after"]
    assert "\x1b[" in shown, "the terminal has bars"
    assert all(said in shown for said in ("before", "1/4", "a note", "a warning", "after"))


def test_a_log_that_cannot_be_written_leaves_what_is_seen_alone():
    out = io.StringIO()
    tee = Tee(out, Log(Path("/dev/full")))
    print("no room", file=tee, flush=True)
    print("still said", file=tee, flush=True)
    assert out.getvalue() == "no room\nstill said\n"


def test_spans_are_short():
    assert [duration(s) for s in (4.4, 59, 90, 3600, 11100)] == ["4s", "59s", "2m", "1h00m", "3h05m"]
