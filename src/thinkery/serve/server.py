"""A server from its first to its last request: it listens, and on SIGTERM it drains.

SIGTERM or Ctrl-C: `/ready` says 503, nothing new is admitted, what is under way may end; after `limits.drain_s` it
ends with an error, and the process stops. A second signal stops at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from thinkery.serve.app import State, build_app
from thinkery.serve.config import Serve
from thinkery.serve.door import Door
from thinkery.serve.offers import offers
from thinkery.serve.replica import Running, Served, start_replica


def serve(models: Sequence[Served], cfg: Serve, *, on_ready: Callable[[str], None]) -> None:
    """Serve models until a signal; `on_ready` hears the address."""
    asyncio.run(run(models, cfg, on_ready))


async def run(models: Sequence[Served], cfg: Serve, on_ready: Callable[[str], None]) -> None:
    """The same, in an event loop."""
    offered = offers(models, cfg.max_len)
    by_name = {model.name: model for model in models}
    running = running_of(cfg)
    door = Door(lambda: start_replica(by_name, running), cfg.replicas, note=lambda news: None)
    state = State(cfg, door, offered)
    server = Server(uvicorn.Config(build_app(state), cfg.host, cfg.port, log_config=None, lifespan="off"))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    listening = asyncio.create_task(server.serve())
    try:
        on_ready(await server.address())
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait({listening, waiting}, return_when=asyncio.FIRST_COMPLETED)
        await drain(state)
    finally:
        server.should_exit = True
        await listening
        door.close()


def running_of(cfg: Serve) -> Running:
    """How each replica runs."""
    threads = cfg.threads or max(1, (os.cpu_count() or 1) // cfg.replicas)
    return Running(cfg.max_batch, cfg.kv_memory, cfg.max_len, cfg.deterministic, threads)


async def drain(state: State) -> None:
    """Admit nothing more, and give what is under way its time."""
    state.draining = True
    patience = asyncio.get_running_loop().time() + state.cfg.limits.drain_s
    while state.calls and asyncio.get_running_loop().time() < patience:
        await asyncio.sleep(0.05)
    for call in list(state.calls):
        call.abort("The server is shutting down")


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
