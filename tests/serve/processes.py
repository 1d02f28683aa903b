"""A server while its model is being opened, and the processes that it has started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx


def children(pid: int) -> list[int]:
    """Processes that a process started and that answer requests."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = []
    for one in pids:
        try:
            parent = int((Path("/proc") / str(one) / "stat").read_text().rpartition(")")[2].split()[1])
            command = (Path("/proc") / str(one) / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in command:
            found.append(one)
    return found


def until(true: Callable[[], object], *, patience_s: float = 60.0) -> None:
    """Return when it is true."""
    patience = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < patience
        time.sleep(0.01)


@contextmanager
def opening(*words: object, folder: Path) -> Iterator[tuple[subprocess.Popen, int, httpx.Client]]:
    """`thinkery serve` that listens while its engine's process, whose id is the second, is held (SIGSTOP) before it has
    opened the model; and a client."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "thinkery.cli", "serve", *map(str, words), f"port={port}", "threads=1"]
    process, held = subprocess.Popen(command, cwd=folder), 0
    try:
        until(lambda: children(process.pid) or process.poll() is not None)
        (held,) = children(process.pid)
        os.kill(held, signal.SIGSTOP)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            until(lambda: listens(client))
            yield process, held, client
    finally:
        process.kill()
        process.wait()
        if held:
            with suppress(ProcessLookupError):
                os.kill(held, signal.SIGKILL)


def listens(client: httpx.Client) -> bool:
    """Whether a server is there."""
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False
