"""`--procs N`: the same command line in N processes of this machine, watched by torchelastic's process context.

Rank 0 has the terminal, and keeps what it says itself; what the others say goes to their files alone (`logs.py`). The
first that fails ends all. Processes lie in sessions of their own, so a Ctrl-C reaches them once, from here.
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

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from thinkery.errors import RankLost, RunFailed
from thinkery.launch.logs import errors_of, output_of

SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.2
"""Seconds between two looks at the processes."""


def launch(words: Sequence[str], procs: int, directory: Path) -> int:
    """Run `thinkery WORDS` as `procs` ranks until all have ended; the exit code of rank 0.

    Raises RankLost, which says that the run is resumable, when a process was killed, and RunFailed with the last words
    of a rank other than 0 that failed.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # `outcome` says what failed
    logs = Logs(directory, procs)
    command = dict.fromkeys(range(procs), ("-m", "thinkery.cli", *words))
    with quiet_signals():
        context = start_processes("thinkery", sys.executable, command, environments(procs), logs)
    with forwarding(context.pids()):
        ended = context.wait(period=POLL_S)
    assert ended is not None
    return outcome(ended.failures, logs)


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


def outcome(failures: Mapping[int, ProcessFailure], logs: Logs) -> int:
    """Rank 0's exit code where it speaks for itself; otherwise raises what became of the rank that failed."""
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    own = [rank for rank, code in codes.items() if code not in (RankLost.exit_code, -signal.SIGTERM)]
    if not own:  # all that ended badly was asked to, or lost one that was
        return max((abs(code) for code in codes.values()), default=0)
    rank = min(own, key=lambda rank: (codes[rank] < 0, rank))
    code = codes[rank]
    if code < 0:
        raise RankLost(
            f"rank {rank} was killed",
            where=str(errors_of(logs.directory, rank)),
            found=signal.Signals(-code).name,
            hint="the same command continues from the last checkpoint",
        )
    if rank:
        where = errors_of(logs.directory, rank)
        raise RunFailed(f"rank {rank} failed", where=str(where), found=last_words(where))
    return code


def last_words(log: Path) -> str:
    """What a rank said of its error."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")


class Logs(LogsSpecs):
    """Where the ranks write: rank 0 to the terminal, each of the others to its files of the run directory."""

    def __init__(self, directory: Path, procs: int) -> None:
        self.directory, self.procs = directory, procs
        super().__init__(self.root_log_dir)
        errors_of(directory, 0).parent.mkdir(parents=True, exist_ok=True)

    @property
    def root_log_dir(self) -> str:
        """The folder of all logs."""
        return str(errors_of(self.directory, 0).parent)

    def reify(self, envs: Mapping[int, Mapping[str, str]]) -> LogsDest:
        """Files for all but rank 0."""
        errors = {rank: str(errors_of(self.directory, rank)) if rank else "" for rank in range(self.procs)}
        output = {rank: str(output_of(self.directory, rank)) if rank else "" for rank in range(self.procs)}
        return LogsDest(output, errors, error_files=dict.fromkeys(range(self.procs), os.devnull))


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
