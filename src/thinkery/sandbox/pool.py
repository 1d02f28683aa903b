"""Warm sandboxes: each worker is one sandbox with a zygote that forks afresh for every program.

    with Pool(workers=4) as pool:
        pool.run(Program("print(1)"))

A pool may be used from any number of threads. A worker runs one program at a time; one that fails, or that a program
dirtied, is replaced. A program that ends its own sandbox is tried once more in a new one, then it is an error of the
program. Sandboxes end with this process, also when it is killed, at the latest after the limit of their program.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from thinkery.errors import EnvironmentLacks
from thinkery.sandbox.bubblewrap import FIRST_UID, LAST_UID, bubblewrap_command, python_command
from thinkery.sandbox.inside.wire import receive, send
from thinkery.sandbox.program import Limits, Outcome, Program, Verdict
from thinkery.sandbox.seccomp import seccomp_filter

Kind = Literal["bubblewrap", "process"]
START_S = 60.0
GRACE_S = 5.0  # the supervisor keeps the clock; a sandbox that does not answer this long after is killed
COMPILER_LIMITS = Limits(cpu_s=20, wall_s=40, memory_mb=1024, file_mb=64)
_SOURCES = Path(__file__).resolve().parents[2]

T = TypeVar("T")
R = TypeVar("R")


class Pool:
    """Sandboxes of one kind, started when first needed.

    kind="process" isolates nothing (see the package's header) and warns. Raises EnvironmentLacks on first use where a
    sandbox cannot be built.
    """

    def __init__(self, workers: int = 0, kind: Kind = "bubblewrap") -> None:
        self.kind: Kind = kind
        self.workers = workers or min(8, os.cpu_count() or 1)
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # a place for a worker not yet started
        if kind == "process":
            warnings.warn(
                'sandbox = "process" isolates nothing: programs that models write may do whatever you may',
                stacklevel=2,
            )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, program: Program) -> Outcome:
        """Run a program (compiling it first where it must be) and say how it ended."""
        binary, failure = self.compile(program)
        return failure or outcome(self.ask(program, "run", binary=binary), program)

    def compile(self, program: Program) -> tuple[str, Outcome | None]:
        """The compiled program ("" for Python), or the outcome of a compilation that failed."""
        if program.language != "cpp":
            return "", None
        compiler = Program(stdin=program.source, limits=COMPILER_LIMITS)
        reply = self.ask(compiler, "compile")
        made = outcome(reply, compiler)
        if made.verdict == "pass":
            return reply["binary"], None
        detail = f"does not compile: {made.stderr.strip()[:500] or made.detail}"
        return "", Outcome("error", stderr=made.stderr, exit_code=made.exit_code, wall_s=made.wall_s, detail=detail)

    def ask(self, program: Program, do: str, binary: str = "", tests: dict[str, str] | None = None) -> dict[str, Any]:
        """The supervisor's reply about one program; {"stopped": "lost"} for one that ends its sandbox twice."""
        request = {"do": do, "source": program.source, "language": program.language, "binary": binary}
        request |= {"stdin": program.stdin, "files": dict(program.files), "limits": asdict(program.limits)}
        messages = [request] if tests is None else [request, tests]
        for _ in range(2):
            if reply := self._ask_one(messages, program.limits.wall_s + GRACE_S):
                return reply
        return {"stopped": "lost", "code": 1, "cpu_s": 0.0, "wall_s": 0.0, "memory_mb": 0.0}

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`function` of every item, in order, as many at a time as there are sandboxes."""
        if len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(self.workers, len(items))) as threads:
            return list(threads.map(function, items))

    def close(self) -> None:
        """End all idle sandboxes; the pool starts new ones if it is used again."""
        places = [self._idle.get() for _ in range(self.workers)]
        for worker in places:
            if worker:
                worker.kill()
            self._idle.put(None)

    def _ask_one(self, messages: Iterable[object], limit_s: float) -> dict[str, Any] | None:
        worker = self._idle.get()
        keep: _Worker | None = None
        try:
            if worker and not worker.ready():
                worker = None
            worker = worker or _Worker(self.kind)
            reply = worker.ask(messages, limit_s)
            if reply is not None:
                keep = worker
            return reply
        finally:
            if worker and not keep:
                worker.kill()
            self._idle.put(keep)


class _Worker:
    """One sandbox and the socket to its zygote."""

    def __init__(self, kind: Kind) -> None:
        self._zygote: int | None = None
        self._socket, inner = socket.socketpair()
        try:
            self._process, zygote = _start(kind, inner)
        except BaseException:
            self._socket.close()
            raise
        finally:
            inner.close()
        self._socket.settimeout(START_S)
        if not self.ready():
            complaint = self._complaint()
            raise EnvironmentLacks(
                "the sandbox for programs does not start",
                found=complaint.strip()[-500:],
                hint='allow user namespaces or run as root; or sandbox = "process", which isolates nothing',
            )
        self._zygote = os.pidfd_open(zygote)

    def ready(self) -> bool:
        """Wait until the zygote can take a program; False when it has ended (or must, because it does not answer)."""
        try:
            if receive(self._socket) == "ready":
                return True
        except (OSError, ValueError):
            pass
        if self._zygote is not None:
            self.kill()
        return False

    def ask(self, messages: Iterable[object], limit_s: float) -> dict[str, Any] | None:
        """The reply to one request, None when there was none in time or the sandbox ended."""
        self._socket.settimeout(limit_s)
        try:
            for message in messages:
                send(self._socket, message)
            reply = receive(self._socket)
        except (OSError, ValueError):
            return None
        self._socket.settimeout(START_S)
        return reply

    def kill(self) -> None:
        """End the sandbox with everything in it, and reap it; an idle zygote tidies up and ends by itself."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        if self._zygote is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._zygote, signal.SIGKILL)
            os.close(self._zygote)
            self._zygote = None
        self._process.kill()
        self._process.communicate()

    def _complaint(self) -> str:
        self._socket.close()
        self._process.kill()
        return self._process.communicate()[1].decode(errors="replace")


@functools.cache
def shared_pool(kind: Kind = "bubblewrap") -> Pool:
    """The pool everyone uses who brings none; closed when the interpreter ends."""
    pool = Pool(kind=kind)
    atexit.register(pool.close)
    return pool


os.register_at_fork(after_in_child=shared_pool.cache_clear)  # sockets to sandboxes cannot be shared by two processes


def run_program(program: Program, pool: Pool | None = None) -> Outcome:
    """Run one program in a sandbox of `pool` (the shared one without)."""
    return (pool or shared_pool()).run(program)


def outcome(reply: dict[str, Any], program: Program) -> Outcome:
    """How the program of a reply ended."""
    limits = program.limits
    code, stopped = reply["code"], reply["stopped"]
    stdout, stderr = (reply.get(name, "").encode("latin-1").decode(errors="replace") for name in ("stdout", "stderr"))
    verdict: Verdict = "error"
    if stopped == "wall":
        verdict, detail = "timeout", f"took longer than {limits.wall_s:g} s"
    elif stopped:
        detail = _STOPPED[stopped]
    elif code == -signal.SIGXCPU or (code == -signal.SIGKILL and reply["cpu_s"] >= limits.cpu_s):
        verdict, detail = "timeout", f"used more than {limits.cpu_s:g} s of CPU"
    elif code < 0:
        detail = f"ended by {_signal_name(-code)}"
    elif code:
        detail = f"exit code {code}: {(stderr.strip().splitlines() or [''])[-1][:300]}"
    else:
        verdict, detail = "pass", ""
    used = {name: round(reply[name], 4) for name in ("cpu_s", "wall_s", "memory_mb")}
    return Outcome(verdict, stdout, stderr, code, detail=detail, **used)


_STOPPED = {
    "memory": "used too much memory",
    "files": "made too many files",
    "output": "wrote too much output",
    "lost": "ended its own sandbox",
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _start(kind: Kind, inner: socket.socket) -> tuple[subprocess.Popen[bytes], int]:
    """Start a zygote on `inner`; returns the process to reap and the id of the zygote itself."""
    if kind == "process":
        process = _popen(python_command(str(_SOURCES), isolated=False, uid=0), inner)
        return process, process.pid
    uid = FIRST_UID + 2 * secrets.randbelow((LAST_UID - FIRST_UID) // 2) if os.geteuid() == 0 else 0
    information, told = os.pipe()
    rules = _pipe_with(seccomp_filter())
    try:
        command = bubblewrap_command(uid, seccomp_fd=rules, info_fd=told)
        process = _popen(command, inner, told, *([rules] if rules is not None else []))
    finally:
        os.close(told)
        if rules is not None:
            os.close(rules)
    with open(information, "rb") as file:
        return process, _zygote_pid(file) or process.pid


def _popen(command: list[str], inner: socket.socket, *pass_fds: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=inner.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        pass_fds=pass_fds,
        start_new_session=True,  # Ctrl-C is for the parent
    )


def _zygote_pid(file: BinaryIO) -> int | None:
    """The process that bubblewrap says it has made; None when it failed before."""
    text = b""
    while part := os.read(file.fileno(), 4096):
        text += part
        if b"}" in text:
            return json.loads(text)["child-pid"]
    return None


def _pipe_with(data: bytes) -> int | None:
    """A pipe that holds `data` and then ends; None for no data."""
    if not data:
        return None
    read, write = os.pipe()
    with open(write, "wb") as file:
        file.write(data)
    return read
