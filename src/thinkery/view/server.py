"""The pages on an address of this machine, until interrupted."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from thinkery.errors import UsageError
from thinkery.view.app import LOOPBACK, create_app
from thinkery.view.library import Library


def serve(library: Library, host: str, port: int, ledger: Path, say: Callable[[str], object]) -> None:
    """Answer requests for loopback names and `host` until interrupted; `say` is told the address."""
    with listening(host, port) as listener:
        say(f"{len(library.folders)} runs at http://{host}:{listener.getsockname()[1]}/ (Ctrl-C ends it)")
        if host not in LOOPBACK:
            say("no password protects these pages: whoever reaches the address reads every sample")
        config = uvicorn.Config(create_app(library, (*LOOPBACK, host), ledger), log_level="warning", lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; UsageError when the address is taken or not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        hint = "--port 0 takes a free one" if error.errno == errno.EADDRINUSE else "--host 127.0.0.1"
        raise UsageError(str(error.strerror or error), where=f"{host}:{port}", hint=hint) from error
