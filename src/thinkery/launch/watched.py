"""A run, or an evaluation, in a process of its own, where a library may end that process from within.

Ray ends a process that has lost its cluster, with exit code 1 and past Python's own end. What a run has done is kept,
so it is one that can be continued, and its exit code has to say so.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from thinkery.errors import RankLost
from thinkery.launch.local import forwarding

ENDS = "THINKERY_TELL_END"
"""The file descriptor on which the process tells that it ends by itself."""

PR_SET_PDEATHSIG = 1
"""Of `linux/prctl.h`."""


def watched(words: Sequence[str]) -> int:
    """Run `thinkery WORDS`; its exit code.

    Raises RankLost, which says that the run is resumable, where the process was ended from without or by a library. It
    has a session of its own, so a Ctrl-C reaches it once, from here.
    """
    told, tells = os.pipe()
    os.set_blocking(told, False)
    command = [sys.executable, "-m", "thinkery.cli", *words]
    process = subprocess.Popen(command, env=os.environ | {ENDS: str(tells)}, pass_fds=[tells], start_new_session=True)
    with process, forwarding({0: process.pid}):
        code = process.wait()
    try:
        by_itself = bool(os.read(told, 1))
    except BlockingIOError:
        by_itself = False
    finally:
        os.close(told)
        os.close(tells)
    if by_itself or code == 0:
        return code
    raise RankLost(
        "the run's process was ended before it could end itself",
        found=signal.Signals(-code).name if code < 0 else f"exit code {code}, as Ray ends what has lost its cluster",
        hint="the same command continues from the last checkpoint",
    )


def elsewhere(words: Sequence[str]) -> int | None:
    """`watched`, but None in the process that is watched, which is to do the work."""
    if ENDS not in os.environ:
        return watched(words)
    tell_end()
    return None


def tell_end() -> None:
    """Have a process that is watched tell when it ends by itself, and stop when nobody watches it any more."""
    atexit.register(os.write, int(os.environ.pop(ENDS)), b".")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
