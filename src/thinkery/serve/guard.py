"""Who may come in: every request passes here before any endpoint sees it (pure ASGI, so that disconnects get through).

1. The Host header must be an address or a name the server is known by: a page that rebinds its own name to 127.0.0.1
   is refused. So is a request that a page of another origin sends.
2. Everything but OPEN needs a key.
3. Keys have rates; bodies have a size and a time to arrive.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thinkery.serve.config import Serve
from thinkery.serve.ledger import Key
from thinkery.serve.limiter import Limiter
from thinkery.serve.refusals import Refusal, no_key, wrong_key

OPEN = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})
"""Paths that need no key, besides the page's files."""


class Guard:
    """The application behind it hears only of requests that may be made; it finds the key in `scope["key"]`."""

    def __init__(
        self,
        app: ASGIApp,
        cfg: Serve,
        key_of: Callable[[str], Key | None],
        limiter: Limiter,
    ) -> None:
        self.app, self.cfg, self.key_of, self.limiter = app, cfg, key_of, limiter
        self.names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in cfg.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        try:
            self.require_host(headers)
            told = self.admit(scope, headers)
        except Refusal as refusal:
            await JSONResponse(refusal.body, refusal.status, refusal.headers)(scope, receive, send)
            return
        await self.app(scope, self.limited(headers, receive), telling(send, told))

    def require_host(self, headers: Headers) -> None:
        """Refuse a request for another host, or from the page of another."""
        host = headers.get("host", "")
        if not self.is_ours(host):
            raise Refusal(403, "Host not allowed; see the server's setting allowed_hosts")
        origin = headers.get("origin")
        if origin is not None and netloc(origin) != host:
            raise Refusal(403, "Requests from pages of other origins are not allowed")

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this server: a known name, or an address, which cannot be rebound."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True

    def admit(self, scope: Scope, headers: Headers) -> dict[str, str]:
        """Find out who asks; returns the headers that tell them their rates."""
        if scope["path"] in OPEN or scope["path"].startswith("/page/"):
            return {}
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        key = self.key_of(secret)
        if key is None:
            raise wrong_key(secret) if secret else no_key()
        scope["key"] = key
        return self.limiter.admit(key.id) if scope["method"] == "POST" else {}

    def limited(self, headers: Headers, receive: Receive) -> Receive:
        """`receive` for a body that may be neither too large nor too slow."""
        limits = self.cfg.limits
        size, whole = 0, False
        until = asyncio.get_running_loop().time() + limits.body_s

        async def receive_some() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            announced = headers.get("content-length", "0")
            if announced.isdigit() and int(announced) > limits.body_bytes:
                raise Refusal(413, f"The body is larger than {limits.body_bytes} bytes")
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise Refusal(408, f"The body did not arrive within {limits.body_s:g} seconds") from None
            size += len(message.get("body", b""))
            if size > limits.body_bytes:
                raise Refusal(413, f"The body is larger than {limits.body_bytes} bytes")
            whole = not message.get("more_body", False)
            return message

        return receive_some


def netloc(origin: str) -> str:
    """The host and port of an origin; "" where it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def telling(send: Send, told: dict[str, str]) -> Send:
    """`send` that adds headers to the response."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(told)
        await send(message)

    return send_more
