"""The process a sandbox starts with: loads Python once, forks for every program, and leaves nothing of it alive.

    zygote ──fork──► supervisor ──fork──► the program          one supervisor and its children per program
                         └───────fork──► its tests             only for tests written as assertions

The zygote never reads a request: the supervisor does, in memory that ends with it, and it forks the program before
it reads the tests, so that no program finds tests, its own or earlier ones, in its memory. In a sandbox the zygote is
process 1: nothing inside can kill it, and kill(-1) reaches everything else. When the supervisor fails, or something
stays in the program's folder, the zygote ends too, and with it, by the kernel, everything in its namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from typing import NoReturn

from thinkery.sandbox.inside.supervisor import Place, supervise
from thinkery.sandbox.inside.wire import send

_DUMPABLE = 4  # PR_SET_DUMPABLE
_PRELOADED = """
abc array bisect cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq io
itertools json math numbers operator random re statistics string textwrap time traceback typing
"""


def main(*, uid: int, isolated: bool) -> NoReturn:
    """Serve programs from the socket that is stdin until it closes; `uid` 0 means that programs keep this user's id."""
    sys.path.pop(0)  # what is left is the standard library: tests import nothing that a program wrote
    for name in _PRELOADED.split():
        importlib.import_module(name)
    host = _take_socket()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 gets only the signals it handles
    if isolated:
        ctypes.CDLL(None).prctl(_DUMPABLE, 0)  # same user or not: nobody traces the zygote or reads its memory
    gc.collect()
    gc.freeze()
    send(host, "ready")
    while _has_request(host):
        folder = "/tmp" if isolated else tempfile.mkdtemp(prefix="thinkery-program-")
        place = Place(folder, uid, isolated)
        served = _in_child(lambda place=place: supervise(host, place))
        if isolated:
            _end_everything()
            if os.listdir(folder):
                _in_child(lambda place=place: _empty(place))
                _end_everything()
        else:
            shutil.rmtree(folder, ignore_errors=True)
        if not served or (isolated and os.listdir(folder)):
            break
        send(host, "ready")
    os._exit(0)


def _take_socket() -> socket.socket:
    """The socket that came as stdin; the three standard streams lead nowhere from here on."""
    host = socket.socket(fileno=os.dup(0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    return host


def _has_request(host: socket.socket) -> bool:
    select.select([host], [], [])
    return bool(host.recv(1, socket.MSG_PEEK))


def _in_child(work) -> bool:
    """Do something in a forked process; whether it ended well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _end_everything() -> None:
    """Kill and reap every other process of this namespace until the kernel says that there is none."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _empty(place: Place) -> None:
    """Delete what a program left, as the user that it was; what cannot be deleted costs the sandbox."""
    place.become_program()
    for name in os.listdir(place.folder):
        path = os.path.join(place.folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
