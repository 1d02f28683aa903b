"""One process at a time works on a run directory."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thinkery.errors import Busy
from thinkery.pipeline.files import writing

LOCK = ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory; Busy names the process that has it.

    The system lets go when this process ends, however it ends: processes forked from it do not keep the lock.
    """
    path = directory / LOCK
    with writing(path):
        directory.mkdir(parents=True, exist_ok=True)
        held = [os.open(path, os.O_RDWR | os.O_CREAT, 0o644)]
    try:
        _take(held[0], directory)
        os.register_at_fork(after_in_child=lambda: _close(held))
        yield
    finally:
        _close(held)


def holder(directory: Path) -> int | None:
    """The process that works on the directory now, None when nobody does."""
    try:
        handle = os.open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _try(handle) else _written_pid(handle)
    finally:
        os.close(handle)


def _take(handle: int, directory: Path) -> None:
    for _ in range(5):  # a reader that asks who works here holds the lock for an instant
        if _try(handle):
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            return
        time.sleep(0.02)
    pid = _written_pid(handle)
    hint = f"wait for it, stop it with: kill {pid}, or use another run directory"
    raise Busy("another process works on this run", where=str(directory), found=f"process {pid}", hint=hint)


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written_pid(handle: int) -> int:
    return int(os.pread(handle, 32, 0) or 0)


def _close(held: list[int]) -> None:
    while held:
        os.close(held.pop())
