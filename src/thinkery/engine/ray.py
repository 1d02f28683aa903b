"""Members of a pool as actors of a Ray cluster, on as many machines as it has (`pip install 'thinkery[ray]'`).

    with open_pool(network, tokenizer, EngineConfig(ray="auto")) as engine: …

The model and every version of its weights are put once into Ray's object store, which copies them once to each machine.
All machines need the same version of Thinkery; `thinkery doctor --cluster` looks. What an actor does with the model is
given: `open_actors` has it sample with the built-in engine, `vllm_ray.py` with a server of vLLM. It takes `threads`
processors and, where the learner has a GPU, a GPU. Nothing of this was run on CUDA.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from thinkery.engine import EngineConfig, MembersConfig
from thinkery.engine.member import Link, Lost, Order, Said, run_member
from thinkery.errors import ConfigError, EnvironmentLacks, RankLost, Stalled, ThinkeryError
from thinkery.model.hf import formats_of, save_model
from thinkery.model.lora import plain
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.weights import SINGLE
from thinkery.process import END_S, Channel

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # or Ray would start a cluster in place of one that is lost
try:
    import grpc
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError, RpcError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as error:
    raise EnvironmentLacks("engine.ray needs Ray", hint="pip install 'ray[client]'") from error

T = TypeVar("T")
Work = Callable[[Channel, Path], None]
"""What an actor does: a member at its end of a connection, with the model of a folder."""
LOG = logging.getLogger("thinkery.engine")
"""Machines that are waited for."""

OPTIONS = {"concurrency_groups": {"work": 1, "receive": 1}, "max_restarts": 0, "max_task_retries": 0}
"""Of every actor: its three threads, the default one for `send`; the pool itself sees to what is lost."""

CONNECT_S = 10.0
"""How long the machine of a cluster may take to answer."""
HEAD_S = 20.0
"""How long the head of a cluster may not answer."""
LOOK_S = 0.5
"""How often one that waits for machines looks for them."""


@contextmanager
def open_actors(network: Any, tokenizer: Tokenizer, cfg: EngineConfig) -> Iterator[Actors]:
    """Actors that sample with the built-in engine, on the cluster that the settings name, connected for as long as the
    block lasts."""
    device = next(network.parameters()).device.type
    alone = cfg.model_copy(update={"processes": 0, "ray": ""})
    work = partial(run_member, cfg=alone, formats=formats_of(network), device=device)
    with connected_as(cfg):
        gpus = int(device == "cuda")
        yield Actors(cfg, gpus, lambda folder: save_model(folder, plain(network), tokenizer), work)


def connected_as(cfg: MembersConfig) -> AbstractContextManager[None]:
    """A connection to the cluster that the settings name."""
    return connected(cfg.ray, processors=cfg.processes * cfg.threads)


@contextmanager
def connected(address: str, processors: int = 0) -> Iterator[None]:
    """A connection to the cluster at an address, kept where there is one.

    "local" starts one of this machine alone, which takes it to have so many processors, at 0 those that it has. Raises
    RankLost where the cluster is lost meanwhile, whatever that made Ray raise.
    """
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": processors or None, "include_dashboard": False} if address == "local" else {}
    try:
        reach(address)
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
        ray.is_initialized()  # for which a client asks its cluster, once
    except Exception as error:  # Ray raises a plain Exception where its processes do not start in time
        found = f"{address}: {error}"
        hint = 'start Ray there, or set engine.ray = "local"; where Ray wants its token, RAY_AUTH_MODE=token'
        raise EnvironmentLacks("no Ray cluster answers", where="engine.ray", found=found, hint=hint) from error
    try:
        yield
    except Exception as error:
        if not means_loss(error):
            raise
        raise lost(error) from error
    finally:
        ray.shutdown()


@contextmanager
def leaving() -> Iterator[None]:
    """Around what actors are told that end with this process where the cluster is lost: then nothing is raised."""
    try:
        yield
    except Exception as error:
        if not means_loss(error):
            raise


def means_loss(error: Exception) -> bool:
    """Whether the open cluster is lost, so that Ray raises this, or whatever comes to it without a connection."""
    if isinstance(error, ThinkeryError):
        return False
    says_so = type(error) is ConnectionError or isinstance(error, grpc.RpcError | RpcError)  # Ray's own has no kind
    return says_so or not ray.is_initialized()


def lost(error: BaseException) -> RankLost:
    """What it means that Ray cannot say what becomes of what was asked."""
    hint = "look at Ray's own log; the same command continues from the last checkpoint"
    return RankLost("the Ray cluster is lost", where="engine.ray", found=str(error), hint=hint)


def raised(error: BaseException) -> BaseException:
    """What the function has raised whose call ends with an error, or that the cluster is lost."""
    return error.cause if isinstance(error, RayTaskError) else lost(error)


def on_every_machine(work: Callable[[str], T], patience_s: float) -> tuple[list[T], dict[str, str]]:
    """What `work` returns on the machines of the open cluster, given its address; by address why others return nothing.

    Every machine is asked alone, and may take `patience_s` to load Thinkery.
    """
    asked: dict[Any, str] = {}
    for node in [node for node in ray.nodes() if node["Alive"]]:
        there: Any = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(work)
        asked[task.remote(node["NodeManagerAddress"])] = node["NodeManagerAddress"]
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=patience_s)
    found, why = [], {asked[one]: f"no answer in {patience_s:g} s" for one in silent}
    for one in answered:
        try:
            found.append(ray.get(one))
        except RayError as error:
            why[asked[one]] = str(error).strip().splitlines()[-1]
    return found, why


def head_of(address: str) -> str:
    """Where the head of the open cluster listens."""
    return address if address.startswith("ray://") else ray.get_runtime_context().gcs_address


def has_gpus() -> bool:
    """Whether the open cluster has any."""
    return "GPU" in ray.cluster_resources()


def reach(address: str) -> None:
    """Raise OSError where nobody listens at host:port; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


class Head:
    """The head of the open cluster, without which Ray may wait for ever; after a minute, it ends this process."""

    def __init__(self, address: str) -> None:
        self.address = head_of(address)
        self.looked = 0.0
        self.gone: float | None = None
        """Since when it has not answered."""
        self.why = ""

    def look(self) -> bool:
        """Whether it answers, or has within the last moment; Stalled where it has not for a while.

        Actors and workers go on without it, so who hears of them has to look as well.
        """
        if time.monotonic() - self.looked > LOOK_S:
            self.answers()
        if self.gone is not None and time.monotonic() - self.gone > HEAD_S:
            hint = "start Ray there again; the same command continues from the last checkpoint"
            what = f"the head of the Ray cluster has not answered for {HEAD_S:g} s"
            raise Stalled(what, where=self.address, found=self.why, hint=hint)
        return self.gone is None

    def answers(self) -> bool:
        """Whether it does now."""
        self.looked = time.monotonic()
        try:
            reach(self.address)
        except OSError as error:
            self.gone, self.why = self.gone or self.looked, str(error)
        else:
            self.gone = None
        return self.gone is None

    def wait(self) -> None:
        """Return when it answers, before anything that Ray would not come back from without it."""
        while not self.look():
            time.sleep(LOOK_S)


class Actors:
    """Members on a cluster, each with so many GPUs: as many as are asked for, or as there is room for.

    `write` writes the model's folder, which every actor then has on its machine for its work.
    """

    def __init__(self, cfg: MembersConfig, gpus: int, write: Callable[[Path], None], work: Work) -> None:
        self.count = count_of(cfg.processes, {"CPU": cfg.threads, "GPU": gpus}, patience_s=cfg.start_s)
        options: dict[str, Any] = {**OPTIONS, "num_cpus": cfg.threads, "num_gpus": gpus}
        self.actor = ray.remote(**options)(Actor)
        self.args = (ray.put(files_of(write)), cfg.threads, work)
        self.head = Head(cfg.ray)

    def start(self) -> ActorLink:
        """A new actor, which begins its work; Stalled where the cluster's head is gone."""
        self.head.wait()
        return ActorLink(self.actor.remote(), self.args)

    def heard(self, links: Sequence[Link], timeout: float) -> list[Link]:
        """Those that have said something or died; Stalled where the cluster's head is gone."""
        by_answer = {link.answer: link for link in links if isinstance(link, ActorLink)}
        ray.wait(list(by_answer), num_returns=1, timeout=timeout)
        ready, _ = ray.wait(list(by_answer), num_returns=len(by_answer), timeout=0)
        if not self.head.look() and not ready:
            time.sleep(LOOK_S)
        return [by_answer[answer] for answer in ready]

    def store(self, weights: Mapping[str, Tensor]) -> InStore:
        """A copy of the weights in the object store."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        return InStore(ray.put(save(tensors, metadata={"format": "pt"})))


def count_of(wanted: int, takes: Mapping[str, int], patience_s: float) -> int:
    """The actors that are wanted, at 0 as many as the machines of the cluster have processors and GPUs for.

    Waits for machines that are still to come, back from a fault perhaps; ConfigError where there is no room then.
    """
    needs, end = {kind: n for kind, n in takes.items() if n}, time.monotonic() + patience_s
    told = False
    while True:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(min(int(has.get(kind, 0)) // n for kind, n in needs.items()) for has in machines)
        if room >= max(wanted, 1):
            return wanted or room
        has = ", ".join(f"{sum(has.get(kind, 0) for has in machines):g} {kind}" for kind in needs)
        each = ", ".join(f"{n} {kind}" for kind, n in needs.items())
        found = f"{has} on {len(machines)} machines, where each engine takes {each} of one"
        what = f"the Ray cluster has no room for {max(wanted, 1)} engines"
        if time.monotonic() > end:
            hint = "add machines, or lower engine.processes or engine.threads"
            raise ConfigError(what, where="engine.ray", found=found, hint=hint)
        if not told:
            LOG.warning("%s, but for %s: waiting %g s for more", what, found, patience_s)
            told = True
        time.sleep(LOOK_S)


def files_of(write: Callable[[Path], None]) -> dict[str, bytes]:
    """The files of a folder that is written, by name."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@dataclass(frozen=True, slots=True)
class InStore:
    """Weights in the object store; the last reference to go frees them."""

    reference: Any

    def read(self) -> Mapping[str, Tensor]:
        """Every tensor by name, fetched to this machine unless they are there."""
        return load(ray.get(self.reference))

    @contextmanager
    def opened(self, place: str) -> Iterator[Path]:
        """A new folder of this machine."""
        if place:
            Path(place).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="thinkery-weights-", dir=place or None) as folder:
            (Path(folder) / SINGLE).write_bytes(ray.get(self.reference))
            yield Path(folder)

    def drop(self) -> None:
        """Nothing: they go with the reference."""


class Actor:
    """What runs on the cluster: a member, whose orders come and whose words go by calls. Calls to `send` keep order."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()

    @ray.method(concurrency_group="work")
    def work(self, files: Mapping[str, bytes], threads: int, work: Work) -> None:
        """Sample until told to stop; what ends it is told, since the actor itself lives on."""
        torch.set_num_threads(threads)
        try:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    (Path(folder) / name).write_bytes(content)
                work(self.mailbox, Path(folder))
        except Exception as error:
            self.mailbox.send(Lost(repr(error)))
            raise

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
        with leaving():
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
            with leaving(), suppress(RayError, GetTimeoutError):
                ray.get(self.done, timeout=END_S)
            self.kill()

    def kill(self) -> None:
        """Kill the actor."""
        self.killed = True
        with leaving():
            ray.kill(self.actor)
