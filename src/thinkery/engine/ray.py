"""Members of a pool as actors of a Ray cluster, on as many machines as it has (`pip install 'thinkery[ray]'`).

    with open_pool(network, tokenizer, EngineConfig(ray="auto")) as engine: …

The model and every version of its weights are put once into Ray's object store, which copies them once to each machine.
All machines need the same version of Thinkery; `thinkery doctor --cluster` looks. An actor takes `threads` processors
and, where the learner has a GPU, a GPU. Nothing of this was run on CUDA.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from thinkery.engine import EngineConfig
from thinkery.engine.member import Link, Order, Said, run_member
from thinkery.errors import ConfigError, EnvironmentLacks, RankLost, Stalled
from thinkery.model.hf import save_model
from thinkery.model.lora import plain
from thinkery.model.tokenizer import Tokenizer
from thinkery.process import END_S

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as error:
    raise EnvironmentLacks("engine.ray needs Ray", hint="pip install 'ray[client]'") from error

T = TypeVar("T")
LOG = logging.getLogger("thinkery.engine")
"""Machines that are waited for."""

OPTIONS = {"concurrency_groups": {"work": 1, "receive": 1}, "max_restarts": 0, "max_task_retries": 0}
"""Of every actor: its three threads, the default one for `send`; the pool itself sees to what is lost."""

ANSWER_S = 120.0
"""How long a machine may take to load Thinkery."""
CONNECT_S = 10.0
"""How long the machine of a cluster may take to answer."""
HEAD_S = 20.0
"""How long the head of a cluster may not answer."""
LOOK_S = 0.5
"""How often one that waits for machines looks for them."""


@contextmanager
def open_actors(network: Any, tokenizer: Tokenizer, cfg: EngineConfig) -> Iterator[Actors]:
    """The place for actors on the cluster that the settings name, connected for as long as the block lasts."""
    with connected(cfg.ray, processors=cfg.processes * cfg.threads):
        yield Actors(network, tokenizer, cfg)


@contextmanager
def connected(address: str, processors: int = 0) -> Iterator[None]:
    """A connection to the cluster at an address, kept where there is one.

    "local" starts one of this machine alone, which takes it to have so many processors, at 0 those that it has. Raises
    RankLost where a client has lost its cluster.
    """
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": processors or None, "include_dashboard": False} if address == "local" else {}
    try:
        reach(address)
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except Exception as error:  # Ray raises a plain Exception where its processes do not start in time
        found = f"{address}: {error}"
        hint = 'start Ray there, or set engine.ray = "local"; where Ray wants its token, RAY_AUTH_MODE=token'
        raise EnvironmentLacks("no Ray cluster answers", where="engine.ray", found=found, hint=hint) from error
    try:
        yield
    except ConnectionError as error:
        if type(error) is not ConnectionError:  # Ray's own has no kind
            raise
        raise lost(error) from error
    finally:
        ray.shutdown()


def lost(error: BaseException) -> RankLost:
    """What it means that Ray cannot say what becomes of what was asked."""
    hint = "look at Ray's own log; the same command continues from the last checkpoint"
    return RankLost("the Ray cluster is lost", where="engine.ray", found=str(error), hint=hint)


def on_every_machine(work: Callable[[str], T]) -> list[T]:
    """What `work` returns on every machine of the open cluster, given its address; EnvironmentLacks where one fails."""
    asked: list[Any] = []
    for node in [node for node in ray.nodes() if node["Alive"]]:
        there: Any = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(ray.remote(num_cpus=0, scheduling_strategy=there)(work).remote(node["NodeManagerAddress"]))
    try:
        return ray.get(asked, timeout=ANSWER_S)
    except RayError as error:
        hint = "every machine needs the same version of Thinkery and its packages"
        raise EnvironmentLacks("a machine of the Ray cluster does not answer", found=str(error), hint=hint) from error


def head_of(address: str) -> str:
    """Where the head of the open cluster listens."""
    return address if address.startswith("ray://") else ray.get_runtime_context().gcs_address


def reach(address: str) -> None:
    """Raise OSError where nobody listens at host:port; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


class Head:
    """The head of the open cluster, without which Ray may wait for ever; after a minute, it ends this process."""

    def __init__(self, address: str) -> None:
        self.address = head_of(address)
        self.gone: float | None = None
        """Since when it has not answered."""

    def look(self) -> bool:
        """Whether it answers; Stalled where it has not for a while."""
        try:
            reach(self.address)
        except OSError as error:
            self.gone = self.gone or time.monotonic()
            if time.monotonic() - self.gone > HEAD_S:
                hint = "start Ray there again; the same command continues from the last checkpoint"
                what = f"the head of the Ray cluster has not answered for {HEAD_S:g} s"
                raise Stalled(what, where=self.address, found=str(error), hint=hint) from error
            return False
        self.gone = None
        return True

    def wait(self) -> None:
        """Return when it answers, before anything that Ray would not come back from without it."""
        while not self.look():
            time.sleep(LOOK_S)


class Actors:
    """Members on a cluster: as many as are asked for, or as it has processors or GPUs for."""

    def __init__(self, network: Any, tokenizer: Tokenizer, cfg: EngineConfig) -> None:
        own = next(network.parameters())
        self.takes = {"num_cpus": cfg.threads, "num_gpus": int(own.device.type == "cuda")}
        self.count = count_of(cfg.processes, self.takes, patience_s=cfg.start_s)
        alone = cfg.model_copy(update={"processes": 0, "ray": ""})
        options: dict[str, Any] = {**OPTIONS, **self.takes}
        self.actor = ray.remote(**options)(Actor)
        self.args = (ray.put(folder_of(network, tokenizer)), alone, own.dtype, own.device.type)
        self.head = Head(cfg.ray)

    def start(self) -> ActorLink:
        """A new actor, which loads the model; Stalled where the cluster's head is gone."""
        self.head.wait()
        return ActorLink(self.actor.remote(), self.args)

    def heard(self, links: Sequence[Link], timeout: float) -> list[Link]:
        """Those that have said something or died; Stalled where the cluster's head is gone."""
        by_answer = {link.answer: link for link in links if isinstance(link, ActorLink)}
        ray.wait(list(by_answer), num_returns=1, timeout=timeout)
        ready, _ = ray.wait(list(by_answer), num_returns=len(by_answer), timeout=0)
        if not ready and not self.head.look():
            time.sleep(LOOK_S)
        return [by_answer[answer] for answer in ready]

    def store(self, weights: Mapping[str, Tensor]) -> InStore:
        """A copy of the weights in the object store."""
        return InStore(ray.put(save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})))


def count_of(wanted: int, takes: Mapping[str, int], patience_s: float) -> int:
    """The actors that are wanted, at 0 as many as the cluster has processors and GPUs for.

    Waits for machines that are still to come, back from a fault perhaps; ConfigError where there is no room then.
    """
    needs, end = {"CPU": takes["num_cpus"], "GPU": takes["num_gpus"]}, time.monotonic() + patience_s
    told = False
    while True:
        has = ray.cluster_resources()
        room = min(int(has.get(kind, 0)) // n for kind, n in needs.items() if n)
        if room >= max(wanted, 1):
            return wanted or room
        found = ", ".join(f"{has.get(kind, 0):g} {kind}" for kind, n in needs.items() if n)
        what = f"the Ray cluster has no room for {max(wanted, 1)} engines"
        if time.monotonic() > end:
            hint = "add machines, or lower engine.processes or engine.threads"
            raise ConfigError(what, where="engine.ray", found=found, hint=hint)
        if not told:
            LOG.warning("%s, but for %s: waiting %g s for more", what, found, patience_s)
            told = True
        time.sleep(LOOK_S)


def folder_of(network: Any, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of the model's folder, by name."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, plain(network), tokenizer)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@dataclass(frozen=True, slots=True)
class InStore:
    """Weights in the object store; the last reference to go frees them."""

    reference: Any

    def read(self) -> Mapping[str, Tensor]:
        """Every tensor by name, fetched to this machine unless they are there."""
        return load(ray.get(self.reference))

    def drop(self) -> None:
        """Nothing: they go with the reference."""


class Actor:
    """What runs on the cluster: a member, whose orders come and whose words go by calls. Calls to `send` keep order."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()

    @ray.method(concurrency_group="work")
    def work(self, files: Mapping[str, bytes], cfg: EngineConfig, dtype: torch.dtype, device: str) -> None:
        """Sample until told to stop."""
        torch.set_num_threads(cfg.threads)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            run_member(self.mailbox, Path(folder), cfg, dtype, device)

    def send(self, order: Order) -> None:
        """Hand over an order."""
        self.mailbox.orders.put(order)

    @ray.method(concurrency_group="receive")
    def receive(self) -> list[Said]:
        """Everything that was said since the last call, waiting for the first thing."""
        said = [self.mailbox.said.get()]
        while not self.mailbox.said.empty():
            said.append(self.mailbox.said.get())
        return said


class Mailbox:
    """A member's end of a connection where both ends are in one process, so that references stay references."""

    def __init__(self) -> None:
        self.orders: SimpleQueue[Order] = SimpleQueue()
        self.said: SimpleQueue[Said] = SimpleQueue()
        self.unread: list[Order] = []

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is an order, waiting for it for a while, for ever with None."""
        if not self.unread:
            with suppress(Empty):
                self.unread.append(self.orders.get(block=timeout != 0, timeout=timeout))
        return bool(self.unread)

    def recv(self) -> Order:
        """The next order."""
        self.poll(None)
        return self.unread.pop()

    def send(self, said: Said) -> None:
        """Say something."""
        self.said.put(said)


class ActorLink:
    """An actor, its work, and the call that waits for what it says."""

    def __init__(self, actor: Any, args: Sequence[Any]) -> None:
        self.actor, self.done, self.answer = actor, actor.work.remote(*args), actor.receive.remote()
        self.killed = False

    def send(self, order: Order) -> None:
        """Tell the actor; one that has died says so by its answer."""
        self.actor.send.remote(order)

    def receive(self) -> list[Said]:
        """What it has said since the last time."""
        try:
            said = ray.get(self.answer)
        except RayError as error:
            raise EOFError from error
        self.answer = self.actor.receive.remote()
        return said

    def end(self) -> None:
        """Wait for its work, and kill it; not for one that was killed, which may be out of reach."""
        if not self.killed:
            with suppress(RayError, GetTimeoutError, ConnectionError):
                ray.get(self.done, timeout=END_S)
            self.kill()

    def kill(self) -> None:
        """Kill the actor."""
        self.killed = True
        with suppress(ConnectionError):  # it ends with the client, which has lost its cluster
            ray.kill(self.actor)
