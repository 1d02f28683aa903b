"""One client's connection: uvicorn's HTTP, but headers have a size and a time, and what is sent has to be taken."""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from thinkery.serve.config import Limits
from thinkery.serve.refusals import Refusal

HEADERS = 64 * 1024
"""Bytes that the headers of a request may have."""


class Patient(HttpToolsProtocol):
    """The protocol under limits. A client that takes nothing for `send_s` is cut off, which the endpoints see as one
    that hung up."""

    limits: ClassVar[Limits]
    unread, timer = 0, None  # bytes of headers that are not complete, and when they have to be
    taking = None  # when to look next whether the client takes what is sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timer = self.loop.call_later(self.limits.headers_s, transport.close)

    def data_received(self, data: bytes) -> None:
        self.unread = 0 if self.timer is None else self.unread + len(data)
        super().data_received(data)
        if self.timer is not None and self.unread > HEADERS:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.trust()
        super().on_message_begin()
        if self.timer is None:
            self.timer = self.loop.call_later(self.limits.headers_s, self.transport.close)

    def on_headers_complete(self) -> None:
        self.forget()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget()
        self.trust()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle is not None and self.cycle.response_complete:
            self.watch()
        else:
            self.trust()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.watch()

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

    def watch(self) -> None:
        """See to it that what is left to send, to which nothing is added meanwhile, becomes less."""
        self.trust()
        if left := self.transport.get_write_buffer_size():
            self.taking = self.loop.call_later(self.limits.send_s, self.look, left)

    def look(self, left: int) -> None:
        """Cut off a client that has taken nothing of so many bytes."""
        if self.transport.get_write_buffer_size() < left:
            self.watch()
        else:
            self.transport.abort()

    def trust(self) -> None:
        """Nothing is left to send, or more may be added to it."""
        if self.taking is not None:
            self.taking.cancel()
            self.taking = None


def patient(limits: Limits) -> type[Patient]:
    """The protocol under these limits; uvicorn makes one for each connection."""
    return type("Patient", (Patient,), {"limits": limits})
