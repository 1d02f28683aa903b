"""A chat endpoint on loopback that answers as it is told, and the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from thinkery.cli.main import main


@dataclass
class Endpoint:
    """Where it is, what it was asked, and how it answers: (messages, seed) → text."""

    answer: Callable[[list[dict[str, str]], int], str]
    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def questions(self) -> list[str]:
        """The last message of every request so far."""
        return [body["messages"][-1]["content"] for body in self.received]

    def options(self, prefix: str = "") -> tuple[str, ...]:
        """How the command line names it."""
        return (f"--{prefix}url", self.url, f"--{prefix}model-name", "m")


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    """Start an endpoint with a way of answering; it counts ten tokens of prompt and five of answer."""
    services: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[list[dict[str, str]], int], str]) -> Endpoint:
        endpoint = Endpoint(answer)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.received.append(body)
                endpoint.headers.append(dict(self.headers))
                message = {"role": "assistant", "content": endpoint.answer(body["messages"], body["seed"])}
                usage = {"prompt_tokens": 10, "completion_tokens": 5}
                text = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None: ...  # a client that was killed

        service = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        services.append(service)
        endpoint.url = f"http://127.0.0.1:{service.server_port}/v1"
        return endpoint

    yield start
    for service in services:
        service.shutdown()
        service.server_close()


@pytest.fixture
def thinkery(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command line in this process; returns (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run
