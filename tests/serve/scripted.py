"""A server that speaks the DeepSeek API and says what a test wrote down, so that a page can be shown hostile text."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import thinkery

PAGE = Path(thinkery.__file__).parent / "serve" / "page"


@dataclass
class Script:
    """What is said to everybody, piece by piece, and how it ends."""

    thought: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    pause_s: float = 0.0
    """Between two pieces."""
    gate: threading.Event | None = None
    """The content waits for it."""
    status: int = 200
    """Another one refuses with `message`."""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)
    """Raw events in place of the proper end."""
    finish: str = "stop"


class ScriptedServer(ThreadingHTTPServer):
    """The page and the API on a loopback port; what was asked is in `asked`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = ["reason", "zero"]
        self.pricing: dict[str, int] | None = {"hit": 140, "miss": 550, "completion": 2190}
        self.key, self.balance = "", ""
        self.scripts: dict[str, Script] = {}
        """By the last question; by model and question, as "zero: question", where they differ."""
        self.asked: list[dict[str, Any]] = []
        self.gone = threading.Event()
        """Set when a client went away during an answer."""

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def script(self, body: dict[str, Any]) -> Script:
        """What to say to a request."""
        question = body["messages"][-1]["content"]
        default = Script(["I know ", "this."], [f"You asked: {question}"])
        return self.scripts.get(f"{body['model']}: {question}", self.scripts.get(question, default))


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """A server in a thread of its own, for as long as the block lasts."""
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ScriptedServer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """The page's files, the models, the balance."""
        if self.path == "/":
            self.send_file(PAGE / "index.html")
        elif self.path.startswith("/page/"):
            self.send_file(PAGE / self.path.removeprefix("/page/"))
        elif not self.allowed():
            self.refuse(401, "Authentication Fails, Your api key: ****rong is invalid")
        elif self.path == "/models":
            extra = {"pricing": self.server.pricing} if self.server.pricing else {}
            self.send(200, {"object": "list", "data": [{"id": name, **extra} for name in self.server.models]})
        elif self.path == "/user/balance" and self.server.balance:
            infos = [{"currency": "USD", "total_balance": self.server.balance}]
            self.send(200, {"is_available": True, "balance_infos": infos})
        else:
            self.refuse(404, "Not Found")

    def do_POST(self) -> None:
        """An answer, streamed."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        script = self.server.script(body)
        if not self.allowed():
            self.refuse(401, "Authentication Fails, Your api key: ****rong is invalid")
        elif script.status != 200:
            self.refuse(script.status, script.message, script.headers)
        else:
            try:
                self.stream(script)
            except (BrokenPipeError, ConnectionResetError):
                self.server.gone.set()

    def stream(self, script: Script) -> None:
        """Deltas as api.md has them, then the usage, then [DONE]."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        self.write(": keep-alive\n\n")
        self.delta({"role": "assistant", "content": None, "reasoning_content": ""})
        for kind, pieces in (("reasoning_content", script.thought), ("content", script.content)):
            if kind == "content" and script.gate:
                script.gate.wait(60)
            for piece in pieces:
                time.sleep(script.pause_s)
                self.delta({"content": None, "reasoning_content": None, kind: piece})
        if script.tail:
            self.write("".join(script.tail))
            return
        thought, content = len(script.thought), len(script.content)
        usage = {
            "prompt_tokens": 100,
            "completion_tokens": thought + content,
            "total_tokens": 100 + thought + content,
            "completion_tokens_details": {"reasoning_tokens": thought},
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
        }
        self.delta({"content": None, "reasoning_content": None}, script.finish, usage)
        self.write("data: [DONE]\n\n")

    def delta(self, delta: dict[str, Any], finish: str | None = None, usage: dict[str, Any] | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self.write(f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n")

    def write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def allowed(self) -> bool:
        return not self.server.key or self.headers["Authorization"] == f"Bearer {self.server.key}"

    def refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        error = {"message": message, "type": "error", "param": None, "code": "invalid_request_error"}
        self.send(status, {"error": error}, headers)

    def send(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send_file(self, path: Path) -> None:
        if not path.is_file():
            self.refuse(404, "Not Found")
            return
        self.send_bytes(200, path.read_bytes(), {"Content-Type": guess_type(path.name)[0] or "font/woff2"})

    def send_bytes(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
