"""A server from its first to its last request: it listens, and on SIGTERM it drains.

SIGTERM or Ctrl-C: `/ready` says 503, nothing new is admitted, what is under way may end; after `limits.drain_s` it
ends with an error, and the process stops. A second signal stops at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from thinkery.errors import RunFailed, UsageError
from thinkery.serve.app import build_app
from thinkery.serve.config import Serve
from thinkery.serve.door import Door
from thinkery.serve.limiter import Limiter
from thinkery.serve.metrics import Metrics
from thinkery.serve.offers import offers
from thinkery.serve.profiles import PROFILES
from thinkery.serve.refusals import Refusal
from thinkery.serve.replica import Running, Served, start_replica
from thinkery.serve.risk import RiskControl, open_risk_control
from thinkery.serve.state import State
from thinkery.serve.till import Till

HEADERS = 64 * 1024
"""Bytes that the headers of a request may have."""

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
    if cfg.engine == "native":
        return
    if cfg.deterministic:
        raise UsageError("vLLM has no deterministic mode", where="deterministic", hint="use the built-in engine")
    if PROFILES[cfg.api_profile].most_thought is not None:
        hint = "take another profile, or the built-in engine"
        raise UsageError(
            "vLLM cannot end a thought that is too long", where=f"api_profile {cfg.api_profile}", hint=hint
        )


def require_keys(host: str, till: Till) -> None:
    """Refuse to listen where others can reach it while everybody may come in."""
    if not till.ledger.has_keys() and not is_loopback(host):
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
    protocol = patient(cfg.limits.headers_s)
    server = Server(
        uvicorn.Config(build_app(state), cfg.host, cfg.port, http=protocol, ws="none", log_config=None, lifespan="off")
    )
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    listening = asyncio.create_task(server.serve())
    try:
        await door.ready.wait()
        if not door.replicas:
            raise door.problem or RunFailed(
                "the model could not be opened; its process says why above", where=models[0].name
            )
        on_ready(await server.address())
        await asyncio.wait({listening, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
        await drain(state)
    finally:
        server.should_exit = True
        await listening
        door.close()


def running_of(cfg: Serve, models: Sequence[Served]) -> Running:
    """How each replica runs."""
    small = all(sum(path.stat().st_size for path in model.folder.glob("*.safetensors")) < SMALL for model in models)
    threads = cfg.threads or (1 if small else max(1, (os.cpu_count() or 1) // cfg.replicas))
    return Running(
        cfg.max_batch, cfg.kv_memory, cfg.max_len, cfg.deterministic, threads, cfg.dtype, cfg.engine, cfg.vllm
    )


async def drain(state: State) -> None:
    """Admit nothing more, and give what is under way its time."""
    state.draining = True
    patience = asyncio.get_running_loop().time() + state.cfg.limits.drain_s
    while state.calls and asyncio.get_running_loop().time() < patience:
        await asyncio.sleep(0.05)
    for call in list(state.calls):
        call.abort("The server is shutting down")


def patient(seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP, but headers may be no larger than HEADERS and take no longer than this."""

    class Patient(HttpToolsProtocol):
        unread, timer = 0, None  # bytes of headers that are not complete, and when they have to be

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.timer = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            self.unread = 0 if self.timer is None else self.unread + len(data)
            super().data_received(data)
            if self.timer is not None and self.unread > HEADERS:
                self.transport.close()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self.timer is None:
                self.timer = self.loop.call_later(seconds, self.transport.close)

        def on_headers_complete(self) -> None:
            self.forget()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self.forget()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            body = json.dumps(Refusal(400, msg).body).encode()
            lines = ("HTTP/1.1 400 Bad Request", "content-type: application/json", f"content-length: {len(body)}")
            self.transport.write("\r\n".join((*lines, "connection: close", "", "")).encode() + body)
            self.transport.close()

        def forget(self) -> None:
            """Wait for headers no more."""
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return Patient


class Server(uvicorn.Server):
    """uvicorn, but signals are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    async def address(self) -> str:
        """Where it listens, once it does."""
        while not self.started:
            if self.should_exit:
                raise OSError("the server could not start")
            await asyncio.sleep(0.01)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
