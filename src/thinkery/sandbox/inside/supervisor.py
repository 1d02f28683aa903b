"""One request: starts the program (and its tests), watches time, memory, files and output, and replies once.

    request   {"do": "run" | "test" | "compile", "source", "language", "stdin", "files", "binary", "limits"}
              for "test" followed by {"tests", "entry_point"}, read only after the program was forked
    reply     {"code", "stdout", "stderr", "cpu_s", "wall_s", "memory_mb", "stopped", "report", "binary"}

`code` is the exit code or minus a signal; `stopped` says which limit ended it: "wall", "memory", "files", "output".
Bytes are written as Latin-1. Whatever is still alive after the reply is the zygote's to kill.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import selectors
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thinkery.sandbox.inside import asserting, loading
from thinkery.sandbox.inside.wire import receive, send

LOOK_S = 0.02
MAX_BINARY = 32 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_COMPILE = ["g++", "-O2", "-std=gnu++17", "-x", "c++", "-", "-o", "program.out"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where programs run: their folder, their user id (0: that of the zygote), and whether it is a sandbox at all."""

    folder: str
    uid: int
    isolated: bool

    def become_program(self) -> None:
        """Give up every privilege for good."""
        self._become(self.uid)

    def become_tests(self) -> None:
        """Another user than the program, where there can be one."""
        self._become(self.uid + 1 if self.uid else 0)

    def _become(self, uid: int) -> None:
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)


@dataclass(slots=True)
class _Child:
    """A forked process and the pipes that this process reads from it."""

    pid: int
    done: int
    pipes: dict[int, bytearray]
    names: dict[int, str]

    def read(self, pipe: int) -> bool:
        """Take what a pipe holds at the moment; False when nobody can write to it any more."""
        try:
            part = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return True
        self.pipes[pipe] += part
        return bool(part)

    def drain(self, room: int) -> bool:
        """Take what the process wrote before it ended; False when it is more than there is room for."""
        for pipe, held in self.pipes.items():
            before = -1
            while before < len(held) <= room:
                before = len(held)
                self.read(pipe)
        return all(len(held) <= room for held in self.pipes.values())

    def outputs(self) -> dict[str, str]:
        """What was read, by the names of the pipes, each byte one character."""
        return {name: self.pipes[pipe].decode("latin-1") for pipe, name in self.names.items()}


def supervise(host: socket.socket, place: Place) -> None:
    """Serve one request from `host`."""
    request = receive(host)
    began = time.monotonic()
    ours, theirs = socket.socketpair()
    program = _fork(("stdout", "stderr"), theirs, lambda: _be_program(request, place, theirs))
    theirs.close()
    limits, tests = request["limits"], None
    if request["do"] == "test":
        asked = receive(host) | {"modules": ["program", *map(loading.module_name, request["files"])]}
        tests = _fork(("report",), ours, lambda: _be_tests(asked, limits, place, ours))
    ours.close()
    stopped = _watch(program, tests, limits, began, place)
    wall_s = time.monotonic() - began
    with contextlib.suppress(ProcessLookupError):
        os.kill(program.pid, signal.SIGKILL)
    _, status, usage = os.wait4(program.pid, 0)
    reply = {"code": os.waitstatus_to_exitcode(status), "stopped": stopped, "wall_s": wall_s}
    reply |= {"cpu_s": usage.ru_utime + usage.ru_stime, "memory_mb": usage.ru_maxrss / 1024, "binary": _binary(place)}
    send(host, reply | program.outputs() | (tests.outputs() if tests else {}))
    if not place.isolated:
        _end_sessions(program, tests)


def _fork(names: tuple[str, ...], channel: socket.socket, work: Callable[[], None]) -> _Child:
    """A child that does `work` with one pipe per name as its file descriptors 1, 2, …; and `channel`."""
    ends = [os.pipe() for _ in names]
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for number, (_, write) in enumerate(ends, start=1):
                os.dup2(write, number)
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    for _, write in ends:
        os.close(write)
    pipes = {read: bytearray() for read, _ in ends}
    return _Child(pid, os.pidfd_open(pid), pipes, dict(zip(pipes, names, strict=True)))


def _be_program(request: dict[str, Any], place: Place, channel: socket.socket) -> None:
    """Turn this process into the program, under limits; does not return."""
    stdin = tempfile.TemporaryFile(dir=place.folder)  # noqa: SIM115
    stdin.write(request["stdin"].encode("utf-8", "surrogatepass"))
    stdin.flush()
    os.fchmod(stdin.fileno(), 0o644)  # /dev/stdin opens it once more
    os.lseek(stdin.fileno(), 0, os.SEEK_SET)
    os.dup2(stdin.fileno(), 0)
    _only(channel)
    _prepare(request["limits"], place)
    place.become_program()
    os.chdir(place.folder)
    if request["do"] == "compile":
        os.execvpe(_COMPILE[0], _COMPILE, {"PATH": "/usr/bin", "TMPDIR": place.folder})
    loading.write_files(request["files"])
    if request["do"] == "test":
        loading.serve_calls(request["source"], channel)
    channel.close()
    if request["language"] == "cpp":
        loading.run_binary(request["binary"].encode("latin-1"))
    loading.run_source(request["source"])


def _be_tests(asked: dict[str, Any], limits: dict[str, Any], place: Place, channel: socket.socket) -> None:
    """Turn this process into the tests; its report goes to file descriptor 1."""
    report = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    _only(channel, report)
    _prepare(limits, place)
    place.become_tests()
    asserting.run_tests(asked["tests"], asked["entry_point"], asked["modules"], channel, report)
    os._exit(0)


def _binary(place: Place) -> str:
    """The program that a compiler left, "" where there is none."""
    path = os.path.join(place.folder, "program.out")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read(MAX_BINARY).decode("latin-1")
    except OSError:
        return ""


def _end_sessions(*children: _Child | None) -> None:
    """Outside a sandbox: kill what still belongs to the children's sessions."""
    for child in filter(None, children):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _only(channel: socket.socket, *more: int) -> None:
    """Close every file descriptor but the standard three, the channel and `more`."""
    keep = [2, *sorted((channel.fileno(), *more)), 1 << 16]
    for low, high in itertools.pairwise(keep):
        os.closerange(low + 1, high)


def _prepare(limits: dict[str, Any], place: Place) -> None:
    """Put this process under limits, and first in line when the machine runs out of memory."""
    megabyte = 1 << 20
    cpu_s = max(1, -(-limits["cpu_s"] // 1))
    wanted = {
        resource.RLIMIT_CPU: (int(cpu_s), int(cpu_s) + 1),
        resource.RLIMIT_AS: limits["memory_mb"] * megabyte,
        resource.RLIMIT_FSIZE: limits["file_mb"] * megabyte,
        resource.RLIMIT_STACK: min(limits["memory_mb"], 256) * megabyte,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if place.isolated:  # elsewhere the limit would count every process of this user
        wanted[resource.RLIMIT_NPROC] = limits["processes"]
    for what, value in wanted.items():
        _limit(what, value if isinstance(value, tuple) else (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _limit(what: int, value: tuple[int, int]) -> None:
    hard = resource.getrlimit(what)[1]
    soft, high = (v if hard == resource.RLIM_INFINITY else min(v, hard) for v in value)
    resource.setrlimit(what, (soft, high))


def _watch(program: _Child, tests: _Child | None, limits: dict[str, Any], began: float, place: Place) -> str:
    """Read until the last process ends or a limit is passed; which limit, or ""."""
    children = [child for child in (program, tests) if child]
    room, ends = limits["output_kb"] << 10, began + limits["wall_s"]
    with selectors.DefaultSelector() as selector:
        for child in children:
            for pipe in child.pipes:
                os.set_blocking(pipe, False)
                selector.register(pipe, selectors.EVENT_READ, child)
        selector.register(children[-1].done, selectors.EVENT_READ)
        while True:
            ready = selector.select(LOOK_S)
            ended = any(key.data is None for key, _ in ready)
            for key, _ in ready:
                if key.data and not key.data.read(key.fd):
                    selector.unregister(key.fd)
            if any(len(held) > room for child in children for held in child.pipes.values()):
                return "output"
            if ended:
                return "" if all(child.drain(room) for child in children) else "output"
            if time.monotonic() > ends:
                return "wall"
            if excess := _excess(limits, place):
                return excess


def _excess(limits: dict[str, Any], place: Place) -> str:
    """Which limit on all processes together is passed; nothing is counted outside a sandbox."""
    if not place.isolated:
        return ""
    files = os.statvfs(place.folder)
    if files.f_files - files.f_ffree > limits["files"]:
        return "files"
    return "memory" if _resident() > limits["memory_mb"] << 20 else ""


def _resident() -> int:
    """Bytes that all processes of the sandbox hold, without the zygote and this one."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1" and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/statm") as file:
                _, resident, shared, *_ = file.read().split()
                pages += int(resident) - int(shared)
    return pages * _PAGE
