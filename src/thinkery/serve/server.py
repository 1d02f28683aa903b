"""A server from its first to its last request: it listens, and on SIGTERM it drains.

SIGTERM or Ctrl-C: `/ready` says 503, nothing new is admitted, what is under way may end; after `limits.drain_s` it
ends with an error, and the process stops; clients that do not take their last words are cut off. A second signal, or
one while no model is open yet, stops at once; what is not charged then is charged by the ledger's next server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop

from thinkery.errors import RunFailed, UsageError
from thinkery.process import settle
from thinkery.serve.app import build_app
from thinkery.serve.config import Serve
from thinkery.serve.connection import patient
from thinkery.serve.door import Door
from thinkery.serve.limiter import Limiter
from thinkery.serve.metrics import Metrics
from thinkery.serve.offers import offers
from thinkery.serve.profiles import PROFILES
from thinkery.serve.replica import Running, Served, start_replica
from thinkery.serve.risk import RiskControl, open_risk_control
from thinkery.serve.state import State
from thinkery.serve.till import Till

LAST_S = 2.0
"""How long last words may take to be taken, and then what was cut off to be charged."""

SOON_S = 1.0
"""How long the latter may take after a second signal."""

IDLE_S = 75
"""How long a connection may be without a request. Common clients keep one for five seconds: a server that closes it
then, too, now and then does so just when the next request comes."""

SMALL = 2**26
"""Bytes of weights up to which one thread computes."""


def serve(models: Sequence[Served], cfg: Serve, ledger: Path, *, on_ready: Callable[[str], None]) -> None:
    """Serve models until a signal; `on_ready` hears the address. Raises UsageError for an open server without keys."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(models, cfg, ledger, on_ready))


async def run(models: Sequence[Served], cfg: Serve, ledger: Path, on_ready: Callable[[str], None]) -> None:
    """The same, in an event loop."""
    require_able(cfg)
    till = Till(ledger, cfg.prices, cfg.limits.waiting)
    try:
        require_keys(cfg.host, till)
        with open_risk_control(cfg.risk) as risk:
            await listen(till, models, cfg, risk, on_ready)
    finally:
        till.close()


def require_able(cfg: Serve) -> None:
    """Refuse settings that the engine cannot follow."""
    if cfg.deterministic and cfg.quantization != "none":
        found, hint = cfg.quantization, "leave out one of the two"
        raise UsageError("a deterministic engine computes in float32", where="quantization", found=found, hint=hint)
    if cfg.engine == "native":
        return
    if cfg.deterministic:
        raise UsageError("vLLM has no deterministic mode", where="deterministic", hint="use the built-in engine")
    if cfg.quantization != "none":
        hint = 'vllm.arguments = ["--quantization=…"], or the built-in engine'
        raise UsageError("vLLM quantises in its own way", where="quantization", found=cfg.quantization, hint=hint)
    if PROFILES[cfg.api_profile].most_thought is not None:
        hint = "take another profile, or the built-in engine"
        raise UsageError(
            "vLLM cannot end a thought that is too long", where=f"api_profile {cfg.api_profile}", hint=hint
        )


def require_keys(host: str, till: Till) -> None:
    """Refuse to listen where others can reach it while everybody may come in."""
    if not till.keys.has_keys() and not is_loopback(host):
        hint = "thinkery keys create NAME, or listen at 127.0.0.1"
        raise UsageError("a server that others can reach needs keys", where=f"host = {host}", hint=hint)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def listen(
    till: Till, models: Sequence[Served], cfg: Serve, risk: RiskControl | None, on_ready: Callable[[str], None]
) -> None:
    """Answer requests until a signal."""
    by_name, running = {model.name: model for model in models}, running_of(cfg, models)
    offered = offers(models, cfg.max_len)
    door = Door(lambda: start_replica(by_name, running), cfg.replicas, note=till.meter.note)
    state = State(cfg, door, till, offered, Limiter(cfg.limits), Metrics(door), risk)
    protocol = patient(cfg.limits)
    app = build_app(state)
    server = Server(
        uvicorn.Config(
            app,
            cfg.host,
            cfg.port,
            http=protocol,
            ws="none",
            log_config=None,
            lifespan="off",
            timeout_keep_alive=IDLE_S,
        )
    )
    signals = Signals()
    listening, left_s = asyncio.create_task(server.serve()), 0.0
    try:
        await first_of(listening, door.ready, signals.stop)
        if not signals.stop.is_set():
            require_open(door, models[0])
            settle()
            on_ready(await server.address())
            await first_of(listening, signals.stop)
        left_s = await drain(state, signals.hurry)
    finally:
        try:
            await end(server, listening, signals.hurry, left_s)
        finally:
            door.close(at_once=signals.hurry.is_set())


class Signals:
    """What SIGTERM and Ctrl-C ask for from now on: the first to stop, the second to do so at once."""

    def __init__(self) -> None:
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.hear)

    def hear(self) -> None:
        """One has come."""
        (self.hurry if self.stop.is_set() else self.stop).set()


async def first_of(task: asyncio.Task[None], *events: asyncio.Event, within_s: float | None = None) -> None:
    """Wait until the task has ended, one of the events has come, or the time is over."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait({task, *waiting}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    for one in waiting:
        one.cancel()


def require_open(door: Door, model: Served) -> None:
    """Raise what kept the model from being opened."""
    if door.ready.is_set() and not door.open:
        raise door.problem or RunFailed("the model could not be opened; its process says why above", where=model.name)


def running_of(cfg: Serve, models: Sequence[Served]) -> Running:
    """How each replica runs."""
    small = all(sum(path.stat().st_size for path in model.folder.glob("*.safetensors")) < SMALL for model in models)
    threads = cfg.threads or (1 if small else max(1, (os.cpu_count() or 1) // cfg.replicas))
    return Running(
        max_batch=cfg.max_batch, kv_memory=cfg.kv_memory, max_len=cfg.max_len, deterministic=cfg.deterministic,
        threads=threads, dtype=cfg.dtype, quantization=cfg.quantization, engine=cfg.engine, vllm=cfg.vllm,
    )  # fmt: skip


async def drain(state: State, hurry: asyncio.Event) -> float:
    """Admit nothing more, and give what is under way its time; returns what is left of it. Where no model was ever
    open, nothing is under way."""
    state.draining = True
    clock = asyncio.get_running_loop().time
    patience = clock() + (state.cfg.limits.drain_s if state.door.ready.is_set() else 0.0)
    while state.calls and clock() < patience and not hurry.is_set():
        await asyncio.sleep(0.05)
    for call in list(state.calls):
        call.abort("The server is shutting down")
    return patience - clock()


async def end(server: Server, listening: asyncio.Task[None], hurry: asyncio.Event, left_s: float) -> None:
    """Stop listening, in any case: who does not take their last words in `left_s` or LAST_S is cut off, and what then
    is not charged in time is left."""
    clock = asyncio.get_running_loop().time
    server.should_exit = True
    await first_of(listening, hurry, within_s=max(left_s, LAST_S))
    begun = clock()
    while not listening.done():
        server.cut_off()
        server.force_exit = clock() > begun + (SOON_S if hurry.is_set() else LAST_S)
        await first_of(listening, within_s=0.1)
    await listening


class Server(uvicorn.Server):
    """uvicorn, but signals are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    def cut_off(self) -> None:
        """End every connection; the endpoints see clients that hung up."""
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def address(self) -> str:
        """Where it listens, once it does."""
        while not self.started:
            if self.should_exit:
                raise OSError("the server could not start")
            await asyncio.sleep(0.01)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
