"""Ray clusters whose head is killed, and learners in processes of their own that have joined one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thinkery.launch.local import free_port

START_S = 120.0
"""How long Ray may take to start."""
END_S = 60.0
"""How long a learner may take to end that has lost its cluster."""
PLACES = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(PLACES), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
"""Of the cluster and of learners: all find the tests, and no token is needed where nobody else can come."""

OPEN = """
import sys, time
import thinkery.engine.ray
from thinkery.cli.main import fail
from thinkery.engine.executor import open_executor

def at_work():
    print("at work", flush=True)

def main(work):
    # End as the command does.
    try:
        work(*sys.argv[1:])
    except Exception as error:
        sys.exit(fail(error, debug=False))

thinkery.engine.ray.HEAD_S = 3.0
"""
"""How a learner's program begins, whose last line is `main(work)`: a head may be silent for three seconds. `work` has
the cluster's address, and says when it is `at_work`."""


class Cluster:
    """One machine with all that `ray start --head` leaves running on it."""

    def __init__(self, processors: int) -> None:
        self.port, self.clients = free_port(), free_port()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"]
        command += [f"--port={self.port}", f"--ray-client-server-port={self.clients}", f"--num-cpus={processors}"]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--include-dashboard=false"]
        self.starting = subprocess.Popen(
            command, env=ENV, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def pids(self) -> list[int]:
        """Every process of it."""
        numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in numbers if session_of(pid) == self.starting.pid]

    def end(self) -> None:
        """Kill the machine."""
        while found := self.pids():
            for pid in found:
                kill(pid)
            self.starting.wait()
            time.sleep(0.05)

    def end_head(self) -> None:
        """Kill the process that knows of all machines, as if it had been on another one."""
        [pid] = [pid for pid in self.pids() if Path(f"/proc/{pid}/comm").read_text() == "gcs_server\n"]
        kill(pid)


WAYS: dict[str, tuple[str, Callable[[Cluster], None]]] = {
    "client": ("ray://127.0.0.1:{0.clients}", Cluster.end),
    "direct": ("127.0.0.1:{0.port}", Cluster.end_head),
}
"""How a learner joins a cluster, and what is killed then: of its own machine, Ray would end it with exit code 1."""


@contextmanager
def head(processors: int = 1) -> Iterator[Cluster]:
    """A cluster of one machine that takes itself to have so many processors, for as long as the block lasts."""
    cluster = Cluster(processors)
    try:
        assert cluster.starting.wait(START_S) == 0
        yield cluster
    finally:
        cluster.end()


def ended(way: str, program: str, *words: str) -> tuple[int, str, float]:
    """How a learner ends whose cluster's head dies while it is at work: exit code, what it says, and after how long."""
    place, end = WAYS[way]
    with head() as cluster:
        learner = at_work([sys.executable, "-c", program, place.format(cluster), *words])
        end(cluster)
        killed = time.monotonic()
        try:
            _, said = learner.communicate(timeout=120)
        finally:
            learner.kill()
        return learner.returncode, said, time.monotonic() - killed


def at_work(command: list[str]) -> subprocess.Popen[str]:
    """A learner that is at work; before, the head may not be there yet, and it is started again."""
    until = time.monotonic() + START_S
    while True:
        learner = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert learner.stdout
        if learner.stdout.readline() == "at work\n":
            return learner
        _, said = learner.communicate()
        assert time.monotonic() < until, said


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def session_of(pid: int) -> int:
    """The session that a process belongs to, 0 where it has ended."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return 0
    return 0 if state == "Z" else int(session)
