"""Machines that are network namespaces of this one: each has an address and Ray processes, and its cable can be pulled.

    with open_nodes(2) as (head, other):
        other.start_ray(head, processors=2)
        with head.popen([sys.executable, "-m", "thinkery.cli", "run", …]) as process:
            other.cut()

The namespaces are joined by a bridge that lies in one more namespace, so that nothing of it touches the machine's own
network, and nothing from outside reaches it. It takes root and `ip` (iproute2). What is left behind when this process
is killed is removed by the next one that opens nodes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from thinkery.errors import EnvironmentLacks

PREFIX = "thinkery-node"
"""What the names of our namespaces begin with."""
LOCKS = Path(tempfile.gettempdir()) / "thinkery-nodes"
"""One file for each opened set of nodes, locked as long as its process lives."""
PORT = 6379
"""Where the head's Ray listens."""
START_S = 120.0
"""How long Ray may take to start on a node."""
STORE_BYTES = 80_000_000
"""Ray's object store on each node."""
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
}
"""Settings of Ray: it gives a node up after five seconds without an answer instead of half a minute, and its workers do
not let everything else go first."""


@contextmanager
def open_nodes(count: int) -> Iterator[list[Node]]:
    """So many nodes that see each other and nobody else; EnvironmentLacks where namespaces are not allowed."""
    if shutil.which("ip") is None or os.geteuid():
        raise EnvironmentLacks("nodes are network namespaces", hint="as root: apt-get install iproute2")
    sweep()
    with ExitStack() as stack:
        stem = f"{PREFIX}-{os.getpid()}"
        stack.enter_context(held(LOCKS / stem))
        stack.callback(remove, stem)
        bridge(f"{stem}-0")
        nodes = []
        for number in range(1, count + 1):
            node = Node(f"{stem}-{number}", f"{stem}-0", number)
            plug_in(node)
            stack.callback(node.kill)
            nodes.append(node)
        yield nodes


@contextmanager
def open_cluster() -> Iterator[list[Node]]:
    """Two nodes of one Ray cluster: the head, for who learns, and another with two processors, which samples."""
    with open_nodes(2) as nodes:
        start_cluster(nodes)
        yield nodes


def start_cluster(nodes: Sequence[Node]) -> None:
    """Start Ray on both."""
    head, other = nodes
    head.start_head(processors=0)
    other.start_ray(head, processors=2)


@dataclass
class Node:
    """One namespace, the name of the port that joins it to the bridge, and what runs in it."""

    name: str
    switch: str
    number: int
    ray: subprocess.Popen[bytes] | None = None
    environ: dict[str, str] = field(default_factory=lambda: {"RAY_AUTH_MODE": "disabled"})
    """Of everything that is started here, besides this process's own; no token is needed where nobody else can come."""

    @property
    def address(self) -> str:
        """Of a range for test networks (RFC 2544), which nobody else uses."""
        return f"198.18.0.{self.number}"

    @property
    def port(self) -> str:
        """The bridge's end of its cable."""
        return f"port{self.number}"

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program here."""
        options["env"] = {**os.environ, **self.environ, **options.get("env", {})}
        return subprocess.Popen(["nsenter", f"--net=/var/run/netns/{self.name}", *command], **options)

    def start_ray(self, head: Node, processors: int, log: IO[bytes] | int = subprocess.DEVNULL) -> None:
        """Begin to start Ray as the head, where `head` is this node, or to join it."""
        where = ["--head", f"--port={PORT}", "--include-dashboard=false"] if head is self else []
        where += [] if head is self else [f"--address={head.address}:{PORT}"]
        words = ["--block", "--disable-usage-stats", f"--num-cpus={processors}", f"--object-store-memory={STORE_BYTES}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *words]
        command += [f"--node-ip-address={self.address}"]
        self.ray = self.popen(command, stdout=log, stderr=log, env=QUICK, start_new_session=True)

    def start_head(self, processors: int) -> None:
        """Start Ray as the head and wait until it listens; EnvironmentLacks where it does not come."""
        asking = f"until (echo > /dev/tcp/{self.address}/{PORT}) 2> /dev/null; do sleep 0.2; done"
        with self.popen(["timeout", f"{START_S:g}", "bash", "-c", asking]) as waiting:
            while waiting.poll() is None:
                if self.ray is None or self.ray.poll() is not None:  # it gives up where the machine is busy
                    self.start_ray(self, processors)
                time.sleep(0.2)
            if waiting.returncode:
                raise EnvironmentLacks("Ray does not start", where=self.name, hint="pip install 'ray[client]'")

    def pids(self) -> list[int]:
        """Every process here."""
        said = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(word) for word in said.stdout.split()]

    def kill(self, spare: Sequence[int] = ()) -> None:
        """End every process here at once, but for those to spare."""
        while found := [pid for pid in self.pids() if pid not in spare]:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.ray is not None:
                self.ray.wait()
                self.ray = None
            time.sleep(0.05)

    def cut(self) -> None:
        """Pull its cable."""
        ip("-n", self.switch, "link", "set", self.port, "down")

    def mend(self) -> None:
        """Put it back."""
        ip("-n", self.switch, "link", "set", self.port, "up")


def bridge(name: str) -> None:
    """A namespace with a bridge in it."""
    ip("netns", "add", name)
    ip("-n", name, "link", "add", "bridge", "type", "bridge")
    ip("-n", name, "link", "set", "bridge", "up")


def plug_in(node: Node) -> None:
    """A node's namespace, and its cable to the bridge."""
    ip("netns", "add", node.name)
    ip("-n", node.switch, "link", "add", node.port, "type", "veth", "peer", "name", "eth0", "netns", node.name)
    ip("-n", node.switch, "link", "set", node.port, "master", "bridge", "up")
    ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "eth0")
    for device in ("eth0", "lo"):
        ip("-n", node.name, "link", "set", device, "up")


def ip(*words: str) -> None:
    """One command of iproute2."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentLacks(f"ip {' '.join(words)}", found=done.stderr.strip(), hint="root, and network namespaces")


def names() -> list[str]:
    """Our namespaces."""
    said = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in said.stdout.splitlines() if line.startswith(PREFIX)]


def remove(stem: str) -> None:
    """Kill what runs in the namespaces of one set of nodes, and remove them with all that joins them."""
    for name in [name for name in names() if name.rpartition("-")[0] == stem]:
        Node(name, "", 0).kill()
        ip("netns", "del", name)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """A file that is locked as long as the block, or its process, lasts."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink()


def sweep() -> None:
    """Remove the nodes of processes that have ended without doing so."""
    for path in LOCKS.glob(f"{PREFIX}-*"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            remove(path.name)
            path.unlink(missing_ok=True)
