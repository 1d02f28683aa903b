"""`--procs N`: the same command line in N processes of this machine, watched by torchelastic's process context.

Rank 0 has the terminal, and keeps what it says itself; what the others say goes to their files alone (`logs.py`). A
shell opens these, since torchelastic would empty them. The first that fails ends all. Processes lie in sessions of
their own, so a Ctrl-C reaches them once, from here.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from thinkery.errors import RankLost, RunFailed
from thinkery.launch.logs import begin_log, errors_of, last_words, output_of
from thinkery.pipeline.meeting import gpu_of
from thinkery.pipeline.tee import Log

SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.2
"""Seconds between two looks at the processes."""
SEEN = 'shift 2; exec "$@"'
APPENDED = 'errors=$1 output=$2; shift 2; exec "$@" 2>> "$errors" >> "$output"'
"""What a shell does to run a program whose words are seen, or go behind what two files have."""


def launch(words: Sequence[str], procs: int, directory: Path) -> int:
    """Run `thinkery WORDS` as `procs` ranks until all have ended; the exit code of rank 0.

    Raises EnvironmentLacks where there are GPUs, but too few; RankLost, which says that the run is resumable, when a
    process was killed; and RunFailed with the last words of a rank other than 0 that failed.
    """
    if torch.cuda.is_available():
        gpu_of({"LOCAL_RANK": str(procs - 1)}, torch.cuda.device_count())
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # `outcome` says what failed
    commands = {rank: command(words, directory, rank) for rank in range(procs)}
    logs = Inherited(str(errors_of(directory, 0).parent))
    for rank in range(1, procs):
        begin_log(directory, rank)
    with quiet_signals():
        context = start_processes("thinkery", "/bin/sh", commands, environments(procs), logs)
    with forwarding(context.pids()):
        ended = context.wait(period=POLL_S)
    assert ended is not None
    return outcome(ended.failures, directory)


def command(words: Sequence[str], directory: Path, rank: int) -> tuple[str, ...]:
    """A shell's arguments for it to become a rank."""
    logs = str(errors_of(directory, rank)), str(output_of(directory, rank))
    return ("-c", APPENDED if rank else SEEN, "sh", *logs, sys.executable, "-m", "thinkery.cli", *words)


def environments(procs: int) -> dict[int, dict[str, str]]:
    """torchrun's variables for each rank, and an equal share of the processors."""
    common = {
        "WORLD_SIZE": str(procs),
        "LOCAL_WORLD_SIZE": str(procs),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // procs))),
    }
    return {rank: {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(procs)}


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


def outcome(failures: Mapping[int, ProcessFailure], directory: Path) -> int:
    """Rank 0's exit code where it speaks for itself; otherwise raises what became of the rank that failed."""
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    own = [rank for rank, code in codes.items() if code not in (RankLost.exit_code, -signal.SIGTERM)]
    if not own:  # all that ended badly was asked to, or lost one that was
        return max((abs(code) for code in codes.values()), default=0)
    rank = min(own, key=lambda rank: (codes[rank] < 0, rank))
    code, where = codes[rank], errors_of(directory, rank)
    if code < 0:
        lost = RankLost(
            f"rank {rank} was killed",
            where=str(where),
            found=signal.Signals(-code).name,
            hint="the same command continues from the last checkpoint",
        )
        with Log(where) as log:
            log.write(f"error: {lost}\n")  # it could not say so itself
        raise lost
    if rank:
        raise RunFailed(f"rank {rank} failed", where=str(where), found=last_words(where))
    return code


class Inherited(LogsSpecs):
    """No files of torchelastic's: what ranks say goes where their commands send it."""

    @property
    def root_log_dir(self) -> str:
        """The folder of all logs."""
        return str(self._root_log_dir)

    def reify(self, envs: Mapping[int, Mapping[str, str]]) -> LogsDest:
        """Nothing for anybody."""
        nothing = dict.fromkeys(envs, "")
        return LogsDest(nothing, nothing, error_files=dict.fromkeys(envs, os.devnull))


@contextmanager
def quiet_signals() -> Iterator[None]:
    """Undo what torchelastic does with signals: it would end ranks that still have to write a checkpoint."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def forwarding(pids: Mapping[int, int]) -> Iterator[None]:
    """Hand each Ctrl-C and SIGTERM on to every rank: the first asks to stop, the second aborts."""

    def forward(number: int, frame: Any) -> None:
        for pid in pids.values():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
