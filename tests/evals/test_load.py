"""Fifty thousand judged samples through `thinkery score`, in constant memory, and with workers killed at random."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MEGABYTE = 1024
"""In the unit of /proc."""


def run(kind: str, lines: Iterator[dict], seen: Callable[[int, int], None]) -> tuple[list[dict], dict]:
    """`thinkery score KIND` in a process of its own; `seen(results so far, pid)` after each result.

    Returns the results and the summary.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "thinkery.cli", "score", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout

    def feed() -> None:
        assert process.stdin
        with process.stdin as pipe:
            pipe.writelines(json.dumps(line) + "\n" for line in lines)

    feeder = threading.Thread(target=feed)
    feeder.start()
    results = []
    for line in process.stdout:
        results.append(json.loads(line))
        seen(len(results), process.pid)
    feeder.join()
    assert process.wait() == 0
    process.stdout.close()
    return results[:-1], results[-1]


def resident(pid: int) -> int:
    """Kilobytes of a process now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def growth(kind: str, lines: Iterator[dict], first: int, last: int) -> tuple[int, list[dict], dict]:
    """Kilobytes that the process grew between two numbers of results."""
    sizes = {}

    def seen(count: int, pid: int) -> None:
        if count in (first, last):
            sizes[count] = resident(pid)

    results, summary = run(kind, lines, seen)
    assert len(results) == last
    return sizes[last] - sizes[first], results, summary


def test_fifty_thousand_samples_of_questions_stream_in_constant_memory():
    """Twelve and a half thousand questions of four answers each, 2 kB an answer: 100 MB."""
    questions = (
        {"id": i, "gold": str(i), "responses": [f"{'x' * 2000}\\boxed{{{i if k % 2 else 0}}}" for k in range(4)]}
        for i in range(1, 12501)
    )
    grown, results, summary = growth("samples", questions, 1250, 12500)
    assert [result["id"] for result in results] == list(range(1, 12501))
    assert (summary["pass@1"], summary["n"], summary["ungraded"]) == (0.5, 12500, 0)
    print(f"score samples: {grown / MEGABYTE:.1f} MB between 5,000 and 50,000 samples")
    assert grown < 16 * MEGABYTE


def test_fifty_thousand_pairs_stream_in_constant_memory():
    """One pair in fifty is no plain number and goes to a worker."""
    pairs = ({"gold": f"1/{i}" if i % 50 == 0 else str(i), "answer": answer(i)} for i in range(1, 50001))
    grown, results, summary = growth("math", pairs, 5000, 50000)
    assert [result["correct"] for result in results] == [i % 3 != 0 for i in range(1, 50001)]
    assert (summary["n"], summary["ungraded"]) == (50000, 0)
    print(f"score math: {grown / MEGABYTE:.1f} MB between 5,000 and 50,000 pairs")
    assert grown < 16 * MEGABYTE


def answer(i: int) -> str:
    """Right, but for every third."""
    wrong = i % 3 == 0
    return f"So it is \\boxed{{\\frac{{{1 + wrong}}}{{{i}}}}}" if i % 50 == 0 else f"So it is \\boxed{{{i + wrong}}}"


def test_killing_workers_at_random_loses_and_counts_nothing_twice():
    """Six thousand pairs that all need a worker, of which one is killed at up to fifty random moments."""
    count, draws = 6000, random.Random(0)
    moments, killed = set(draws.sample(range(10, count - 500), 50)), []

    def seen(results: int, pid: int) -> None:
        if results in moments and (workers := sorted(children(pid))):
            killed.append(draws.choice(workers))
            with contextlib.suppress(ProcessLookupError):
                os.kill(killed[-1], signal.SIGKILL)

    pairs = (
        {"gold": f"{i}/{2 * i + 1}", "answer": f"\\frac{{{i + i % 2}}}{{{2 * i + 1}}}"} for i in range(1, count + 1)
    )
    results, summary = run("math", pairs, seen)
    print(f"{len(killed)} workers were killed over {count} pairs")
    assert len(killed) >= 3
    assert [result["correct"] for result in results] == [i % 2 == 0 for i in range(1, count + 1)]
    assert summary == {"accuracy": 0.5, "n": count, "ungraded": 0}


def children(pid: int) -> Iterator[int]:
    """The processes of a process's workers that compare mathematical answers."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if "math_worker" in Path(f"/proc/{child}/cmdline").read_text():
                    yield int(child)
