"""Random faults under a short recipe: each ends in recovery or in an end after which the same command continues.

Engines are killed and stopped for a while, the run is killed, asked to stop, and finds its disk full; on a Ray cluster,
the machine is killed that is its head. Afterwards nothing is missing from the record, nothing is there twice, and the
weights are those of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from bench.faults import rows, updates, weights
from tests.engine import heads

from thinkery.errors import DiskFull, RankLost, Stopped

UPDATES, QUESTIONS, SAMPLES = 80, 2, 4
SHORT = f"""
extends = "tiny"

[problems]
sources = [{{ source = "world", kind = "chain", limit = 24 }}]

[zero]
watched = 2
engine = {{ processes = 2, deterministic = true, max_batch = 8, max_len = 96 }}

[zero.grpo]
updates = {UPDATES}
questions_per_update = {QUESTIONS}
group_size = {SAMPLES}
max_tokens = [[0, 32]]
preflight = 0
skip_no_spread = false
checkpoint_every = 2
eval_every = 20
"""
PATIENCE_S = 240.0
"""How long the run may take to the next update, and to recover from any fault."""
STOPPED_S = 4.0
"""How long an engine is held up."""


class Attempt:
    """One start of the command, in a folder that has the recipe and the run."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-m", "thinkery.cli", "run", "short.toml", "--until", "zero", "--dir", "run", *words]
        self.folder = folder
        self.process = subprocess.Popen(
            command, cwd=folder, env=heads.ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def reaches(self, update: int) -> bool:
        """Wait for an update; False when the run ends before it."""
        until = time.monotonic() + PATIENCE_S
        while update not in updates(self.folder):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < until, f"update {update} did not come"
            time.sleep(0.05)
        return True

    def engines(self) -> list[int]:
        """The processes that sample."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def end(self) -> int:
        """Wait for the end; the exit code."""
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


def kill_an_engine(attempt: Attempt, rng: random.Random) -> None:
    """Of which the others do the work."""
    os.kill(rng.choice(attempt.engines()), signal.SIGKILL)


def hold_an_engine_up(attempt: Attempt, rng: random.Random) -> None:
    """For a few seconds."""
    engine = rng.choice(attempt.engines())
    os.kill(engine, signal.SIGSTOP)
    time.sleep(STOPPED_S)
    with suppress(ProcessLookupError):  # taken for dead, and killed meanwhile
        os.kill(engine, signal.SIGCONT)


def kill_the_run(attempt: Attempt, rng: random.Random) -> None:
    """As the system does when memory is short."""
    attempt.process.kill()
    assert attempt.end() == -signal.SIGKILL


def ask_it_to_stop(attempt: Attempt, rng: random.Random) -> None:
    """As Slurm does before a job's time is over."""
    attempt.process.terminate()
    assert attempt.end() == Stopped.exit_code


def fill_the_disk(attempt: Attempt, rng: random.Random) -> None:
    """Until the run has given up, and then make room again."""
    filler = attempt.folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    assert attempt.end() in (DiskFull.exit_code, Stopped.exit_code)  # before its first checkpoint, or after
    filler.unlink()


RECOVERED = (kill_an_engine, hold_an_engine_up)
"""Faults that the run survives."""
ENDING = (kill_the_run, ask_it_to_stop, fill_the_disk)
"""Faults after which the same command continues."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 96 MB in memory; the test is skipped where mounting is not allowed."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def disturbed(folder: Path, faults: list[Callable[[Attempt, random.Random], None]], rng: random.Random) -> list[str]:
    """Run the recipe to its end under faults, each a few updates after the one before; the names of those that hit."""
    attempt, at, hit = Attempt(folder), 0, []
    for fault in faults:
        at = max([at, *updates(folder)]) + rng.randint(1, 2)
        if not attempt.reaches(at):
            break
        fault(attempt, rng)
        hit.append(fault.__name__)
        if fault in ENDING:
            attempt = Attempt(folder)
    assert attempt.end() == 0
    return hit


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("calm")
    (folder / "short.toml").write_text(SHORT)
    assert Attempt(folder).end() == 0
    return folder


def assert_whole(folder: Path, calm: Path) -> None:
    """Every update and every sample must be in the record once, and the weights must be those of an undisturbed run."""
    assert updates(folder) == updates(calm) == list(range(1, UPDATES + 1))
    asked = [(row["step"], row["task"], row["sample"]) for row in rows(folder, "rollouts/*.jsonl.gz")]
    assert len(asked) == len(set(asked)) == UPDATES * QUESTIONS * SAMPLES
    assert weights(folder) == weights(calm)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_faults_leave_the_record_and_the_weights_of_an_undisturbed_run(tmp_path: Path, calm: Path):
    rng = random.Random(8)
    faults = [*RECOVERED, *ENDING, rng.choice(RECOVERED), rng.choice(ENDING)]
    rng.shuffle(faults)
    with small_disk(tmp_path / "disk") as disk:
        (disk / "short.toml").write_text(SHORT)
        hit = disturbed(disk, faults, rng)
        assert len(hit) == len(faults), hit
        assert_whole(disk, calm)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.flaky(reruns=2)
@pytest.mark.parametrize("place", [place for place, _ in heads.WAYS.values()], ids=[*heads.WAYS])
def test_a_run_whose_ray_cluster_dies_with_its_head_goes_on_with_another_one(tmp_path: Path, calm: Path, place: str):
    pytest.importorskip("ray", reason="thinkery[ray] is not installed")
    (tmp_path / "short.toml").write_text(SHORT)
    with heads.head(processors=2) as cluster:
        attempt = Attempt(tmp_path, "--on", place.format(cluster))
        assert attempt.reaches(3)
        cluster.end()
        killed = time.monotonic()
        assert attempt.end() == RankLost.exit_code
        assert time.monotonic() - killed < heads.END_S
    with heads.head(processors=2) as cluster:
        assert Attempt(tmp_path, "--on", place.format(cluster)).end() == 0
    assert_whole(tmp_path, calm)
