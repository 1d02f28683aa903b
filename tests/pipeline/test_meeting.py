"""The start of several ranks: those that never come are named, in limited time, and the others can be started again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from thinkery.errors import EnvironmentLacks
from thinkery.launch.local import environments
from thinkery.pipeline.meeting import gpu_of

DOCTOR = ("-m", "thinkery.cli", "doctor", "--cluster", "--wait", "3")

UNMET = """
import os, sys, threading
import thinkery.pipeline.pulse as pulses
from thinkery.pipeline.meeting import meet
from thinkery.pipeline.ranks import joined

pulses.GRACE_S = 0.1
cfg = pulses.Watchdog(start_s=float(sys.argv[1]))
if os.environ["RANK"] == "1":
    meet(os.environ, cfg).start()
    threading.Event().wait(60)
else:
    with joined(os.environ, cfg):
        print("joined")
"""
"""Rank 1 comes and lives, but never does what the first meeting of all takes."""


def started(ranks: Sequence[int], count: int, *words: str) -> list[subprocess.Popen[str]]:
    """These ranks of so many, each with its variables and nothing else of torchrun."""
    places = environments(count)
    return [
        subprocess.Popen([sys.executable, *words], env={**os.environ, **places[rank]}, stdout=-1, stderr=-1, text=True)
        for rank in ranks
    ]


@pytest.mark.parametrize(
    ("present", "absent", "found"),
    [((0,), 1, "1 of 2 ranks"), ((1,), 0, "[Errno 111] Connection refused"), ((0, 1), 2, "2 of 3 ranks")],
)
def test_ranks_that_never_come_are_named_with_the_address_by_all_that_came(present, absent, found):
    began = time.monotonic()
    for process in started(present, max((*present, absent)) + 1, *DOCTOR):
        _, said = process.communicate(timeout=120)
        assert process.returncode == 75, said
        assert re.search(rf"error: 127\.0\.0\.1:\d+: rank {absent} has not come in 3 s .*{re.escape(found)}", said)
        assert "the same command starts again" in said
        assert "frame #" not in said
    assert 3 < time.monotonic() - began < 100


def test_a_recipe_says_how_long_its_ranks_may_take_to_come(tmp_path):
    (process,) = started([0], 2, "-m", "thinkery.cli", "run", "tiny", "--dir", str(tmp_path), "watchdog.start_s=1")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "rank 1 has not come in 1 s (watchdog.start_s)" in said
    assert said in (tmp_path / "logs/rank-0.txt").read_text()


def test_a_rank_that_has_come_but_never_meets_the_others_is_not_waited_for_for_ever():
    first, second = started([0, 1], 2, "-c", UNMET, "4")
    told, said = first.communicate(timeout=120)
    second.kill()
    second.communicate()
    assert (first.returncode, told) == (75, "")
    assert "watchdog.start_s: the ranks have not met for 4 s" in said


def test_a_machine_with_fewer_gpus_than_ranks_is_one_clear_error_of_every_rank():
    places = environments(2)
    assert [gpu_of(places[rank], 2) for rank in (0, 1)] == [0, 1]
    for rank in (0, 1):
        with pytest.raises(EnvironmentLacks, match=r"a GPU of its own \(found 2 ranks, 1 GPUs\)") as lacks:
            gpu_of(places[rank], 1)
        assert lacks.value.exit_code == 5
        assert "--procs 1" in lacks.value.hint
    with pytest.raises(EnvironmentLacks, match="found 4 ranks, 3 GPUs"):
        gpu_of({"LOCAL_RANK": "3"}, 3)
