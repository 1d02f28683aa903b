"""A server that answers as vLLM's does in its development mode, and samples with the built-in engine.

It is a process of its own, which the tests kill and start anew as they like: its weights are then those of its folder.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
import torch
from tests.engine.asking import FIXED

from thinkery.core import Sampling
from thinkery.engine import Request, generate, open_engine
from thinkery.engine.canary import text_logprobs
from thinkery.engine.vllm import VllmConfig, write_untied
from thinkery.engine.vllm_server import free_port
from thinkery.model.hf import load_model
from thinkery.model.weights import fill, read_weights

SETTINGS = VllmConfig(dtype="float32", max_len=64, max_batch=8, tolerance=1e-3, patience_s=120.0)
HELD_S = 0.01
"""How long an answer takes at least, so that a server has something to do when it is killed."""

STARTED = f"""#!{sys.executable}
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = {sys.path!r}
    from tests.engine.copying import serve

    given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv if "=" in word)
    serve(Path(given["model"]), int(given["port"]))
"""
"""A Python that starts the server which answers as vLLM's does, whatever module it is told to start."""


def program(folder: Path, text: str) -> str:
    """A program with a text."""
    path = folder / "python"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


class Copying:
    """A server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, or start it anew."""
        self.process = get_context("spawn").Process(target=serve, args=(self.folder, self.port), daemon=True)
        self.process.start()

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.process.kill()
        self.process.join()

    def say(self, path: str, **body: Any) -> None:
        """Tell it something, as a stranger."""
        httpx.post(self.url + path, json=body, trust_env=False).raise_for_status()


@contextmanager
def copying(network, tokenizer, folder: Path, count: int) -> Iterator[list[Copying]]:
    """So many servers of the network as it is now."""
    folder.mkdir(exist_ok=True)
    write_untied(folder, network, tokenizer, SETTINGS)
    servers = [Copying(folder) for _ in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.kill()


def serve(folder: Path, port: int) -> None:
    """Answer until killed."""
    torch.set_num_threads(1)
    network, tokenizer = load_model(folder)
    one_at_a_time, state = Lock(), {"weight_version": "default"}
    with open_engine(network, tokenizer, FIXED) as engine:

        def completion(body: dict[str, Any]) -> dict[str, Any]:
            if "prompt_logprobs" in body:
                found = zip(body["prompt"][1:], text_logprobs(network, body["prompt"]), strict=True)
                return {"prompt_logprobs": [None, *({str(token): {"logprob": p}} for token, p in found)]}
            time.sleep(HELD_S)
            sampling = Sampling(**{name: body[name] for name in ("temperature", "top_p", "top_k", "max_tokens")})
            [(_, [event])] = generate(engine, [Request((body["seed"],), sampling, prompt=tuple(body["prompt"]))])
            said = event.completion
            assert said
            return {
                "token_ids": said.tokens,
                "logprobs": {"token_logprobs": said.logprobs},
                "finish_reason": said.finish,
            }

        def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
            if path == "/collective_rpc":
                assert body["method"] == "reload_weights"
                weights = read_weights(Path(body["kwargs"]["weights_path"]))
                fill(network, weights, where="reload_weights")
                engine.bump(engine.version + 1)
            elif path == "/update_weight_version":
                state["weight_version"] = body["new_version"]
            elif path == "/v1/completions":
                return {"choices": [completion(body)]}
            return {"success": True}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(state)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if len(body.get("prompt", ())) + body.get("max_tokens", 0) > SETTINGS.max_len:
                    self.reply({"error": "longer than max_model_len"}, status=400)
                    return
                with one_at_a_time:
                    found = answer(self.path, body)
                self.reply(found)

            def reply(self, found: dict[str, Any], status: int = 200) -> None:
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
            server.serve_forever()
