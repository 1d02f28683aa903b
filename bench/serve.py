"""The server under load, beside vLLM's: throughput and time to first token at 1, 8 and 64 clients, and cached prefixes.

    python -m bench.serve                        →  bench/results/serve.json; the machine should do nothing else
    python -m bench.serve smollm2 runs/demo:align --clients 8 --rounds 1

Both servers get the same work in turn, each in processes of its own. Every client holds conversations of several turns,
one after the other, with a system prompt that all share. What is asked and in which order depends on the seed alone (a
model with room for less than 4,096 tokens is asked in fewer words, in proportion); answers are greedy and cut at a
fixed number of tokens. Beside the speed stands whether both were asked the same prompts (tokens of prompts, as each
server counted them) and how many of the first number of clients' answers are the same text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np

from bench.peers.__main__ import CACHE, located
from bench.recipe import RESULTS, machine, write
from thinkery.cli.models import find_model
from thinkery.process import settle

WORDS = ("the", "ball", "is", "under", "a", "red", "cup", "and", "we", "swap", "it", "with", "two", "blue", "ones")
RESULT = RESULTS / "serve.json"
"""Models that are not measured stay in it as they were."""
BARS = {"tokens_per_s": 1.2, "first_p50_s": 1.0, "first_p99_s": 1.0}
"""What is asked: throughput as a multiple of vLLM's, and vLLM's time to the first token as a multiple of ours."""
NAME = "deepseek-reasoner"
"""What both call their model."""
SOONER, LONG = 5.0, 1800
"""How much sooner a cached prefix answers its first token, where it has so many tokens."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients do."""

    conversations: int
    """In all, shared out among the clients."""
    turns: int
    system_words: int
    question_words: int
    answer_tokens: int
    prefix_words: int
    """Of the prefix that is sent twice."""
    seed: int
    times: int = 1
    """How often as many conversations, for models that answer in milliseconds."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as a client saw it: its text, seconds and tokens."""

    text: str
    first_s: float
    whole_s: float
    tokens: int
    prompt_tokens: int


def main() -> None:
    """Measure both servers with every model, in turn, and keep what was found."""
    args = arguments()
    began = time.monotonic()
    command = ["python", "-m", "bench.serve", *sys.argv[1:]]
    stamp = {"date": date.today().isoformat(), "command": command}
    found = {model: compared(model, args) | stamp for model in args.models}
    known = json.loads(RESULT.read_text())["models"] if RESULT.exists() else {}
    write("serve", {
        "date": date.today().isoformat(),
        "machine": machine(),
        "command": command,
        "wall_s": round(time.monotonic() - began, 1),
        "models": known | found,
    })  # fmt: skip


def arguments() -> argparse.Namespace:
    """What to measure and how hard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["smollm2"], help="a run, a stage or a folder; default: smollm2")
    parser.add_argument("--vllm", type=Path, default=CACHE / "vllm" / "bin" / "python", help="Python that has vLLM")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3, help="times that each server is measured; medians are told")
    for name, default in {"turns": 3, "system-words": 150, "question-words": 30}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--prefix-words", type=int, default=1900, help="words of the prefix that is sent twice")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--times", type=int, default=1, help="how often as many conversations, for a small model")
    return parser.parse_args()


def compared(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """What both servers did with a model: the medians of their rounds, and the ratios that are asked for."""
    folder = located(str(find_model(model)))
    room = min(4096, json.loads((folder / "config.json").read_text())["max_position_embeddings"])
    load = Load(
        0, args.turns, args.system_words * room // 4096, args.question_words * room // 4096, args.answer_tokens,
        args.prefix_words * room // 4096, args.seed, args.times,
    )  # fmt: skip
    contenders = {"ours": lambda: ours(folder), "vllm": lambda: vllm(args.vllm, folder, room)}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, start in contenders.items():
            with start() as url:
                rounds[name].append(asyncio.run(measured(url, args.clients, load)))
            print(model, name, json.dumps(rounds[name][-1]["clients"]), file=sys.stderr, flush=True)
    theirs, own = (summary(rounds[name]) for name in ("vllm", "ours"))
    ratios = {
        count: {
            "tokens_per_s": row["tokens_per_s"] / theirs["clients"][count]["tokens_per_s"],
            **{name: theirs["clients"][count][name] / row[name] for name in ("first_p50_s", "first_p99_s")},
        }
        for count, row in own["clients"].items()
    }
    holds = all(row[name] >= bar for row in ratios.values() for name, bar in BARS.items())
    return {
        "ours": own,
        "vllm": theirs,
        "ratios": ratios,
        "same_answers": share_of_same(*(rounds[name][0]["texts"] for name in ("ours", "vllm"))),
        "holds": holds and (own["cached_prefix"]["tokens"] < LONG or own["cached_prefix"]["times_sooner"] >= SOONER),
    }  # fmt: skip


def share_of_same(first: Sequence[str], second: Sequence[str]) -> float:
    """How many texts are equal."""
    return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of every figure over the rounds."""
    first = rounds[0]
    clients = {
        count: {name: median(one["clients"][count][name] for one in rounds) for name in row}
        for count, row in first["clients"].items()
    }
    prefix = {name: median(one["cached_prefix"][name] for one in rounds) for name in first["cached_prefix"]}
    return {"clients": clients, "cached_prefix": prefix}


async def measured(url: str, counts: Sequence[int], load: Load) -> dict[str, Any]:
    """Every number of clients in turn, then a prefix that comes again; `texts` are the first number's answers."""
    await ready(url)
    settle()
    clients: dict[str, dict[str, float]] = {}
    texts: list[str] = []
    for count in counts:
        answers, seconds = await measure(url, count, replace(load, conversations=load.times * max(8, count * 3 // 2)))
        clients[str(count)] = figures(answers, seconds)
        texts = texts or [answer.text for answer in answers]
    return {"clients": clients, "texts": texts, "cached_prefix": await measure_prefix(url, load.prefix_words)}


@contextmanager
def ours(model: Path) -> Iterator[str]:
    """The address of our server, with a ledger of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "thinkery.cli", "serve", str(model), f"port={(port := free_port())}"]
        with running([*command, "--ledger", str(Path(folder) / "serve.db")], Path(folder) / "log"):
            yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def vllm(python: Path, model: Path, room: int) -> Iterator[str]:
    """The address of vLLM's server, with prefix caching and compiled as it is by default."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        options = {
            "port": (port := free_port()), "host": "127.0.0.1", "served-model-name": NAME, "dtype": "bfloat16",
            "max-model-len": room, "max-num-seqs": 64, "generation-config": "vllm",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
        with running([*command, *words], Path(folder) / "log", os.environ | settings):
            yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def running(
    command: Sequence[str], log: Path, environ: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server for as long as it is measured; when it ends by itself, so does everything, with what it said."""
    with open(log, "w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environ) as process:
        try:
            yield process
        except aiohttp.ClientConnectionError:
            if process.poll() is not None:
                sys.exit(log.read_text()[-4000:])
            raise
        finally:
            process.terminate()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def ready(url: str) -> None:
    """Return once one answer has been made, which loads the model."""
    until = time.monotonic() + 600
    async with session() as client:
        while True:
            try:
                await ask(client, url, [{"role": "user", "content": "hello"}], 4)
                return
            except aiohttp.ClientConnectorError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.2)


async def measure(url: str, count: int, load: Load) -> tuple[list[Answered], float]:
    """The answers that so many clients got at the same time; a conversation begins when a client is free."""
    rng = random.Random(f"{load.seed}/{count}")
    system = words(rng, load.system_words)
    waiting = [(n, [words(rng, load.question_words) for _ in range(load.turns)]) for n in range(load.conversations)]
    answers: dict[tuple[int, int], Answered] = {}
    started = time.perf_counter()
    async with session() as client:

        async def one_client() -> None:
            while waiting:
                messages = [{"role": "system", "content": system}]
                number, questions = waiting.pop()
                for turn, question in enumerate(questions):
                    messages.append({"role": "user", "content": question})
                    answer = answers[number, turn] = await ask(client, url, messages, load.answer_tokens)
                    messages.append({"role": "assistant", "content": answer.text})

        await asyncio.gather(*(one_client() for _ in range(count)))
    return [answers[place] for place in sorted(answers)], time.perf_counter() - started


def figures(answers: Sequence[Answered], seconds: float) -> dict[str, float]:
    """Throughput, and how long a client waits."""
    first = [answer.first_s for answer in answers]
    return {
        "answers": len(answers),
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "tokens": sum(answer.tokens for answer in answers),
        "first_p50_s": float(np.percentile(first, 50)),
        "first_p99_s": float(np.percentile(first, 99)),
        "whole_p50_s": float(np.percentile([answer.whole_s for answer in answers], 50)),
        "tokens_per_s": sum(answer.tokens for answer in answers) / seconds,
        "requests_per_s": len(answers) / seconds,
    }


async def measure_prefix(url: str, count: int) -> dict[str, float]:
    """Seconds to the first token for a long prompt that is new, and for the same one again; medians of five."""
    rng = random.Random(7)
    times: dict[str, list[float]] = {"new": [], "again": []}
    tokens = 0
    async with session() as client:
        for _ in range(5):
            messages = [{"role": "user", "content": words(rng, count)}]
            for found in times.values():
                answered = await ask(client, url, messages, 1)
                found.append(answered.first_s)
                tokens = answered.prompt_tokens
    new, again = (float(np.median(found)) for found in times.values())
    return {"tokens": tokens, "new_s": new, "again_s": again, "times_sooner": new / again}


def session() -> aiohttp.ClientSession:
    """Connections that wait long, as many as are needed; a refusal is an error."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=600), raise_for_status=True
    )


async def ask(client: aiohttp.ClientSession, url: str, messages: list[dict[str, str]], tokens: int) -> Answered:
    """One streamed answer, of thought and content; the first chunk with text in it counts as the first token."""
    body = {"model": NAME, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    started, first, text, usage = time.perf_counter(), None, "", {}
    async with client.post(f"{url}/chat/completions", json=body) as answer:
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line.removeprefix(b"data: "))
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                said = [choice["delta"].get(kind) or "" for kind in ("reasoning_content", "content")]
                text += said[1]
                if any(said) and first is None:
                    first = time.perf_counter() - started
    whole = time.perf_counter() - started
    return Answered(text, first or whole, whole, usage["completion_tokens"], usage["prompt_tokens"])


def words(rng: random.Random, count: int) -> str:
    """A text of so many words."""
    return " ".join(rng.choices(WORDS, k=count))


if __name__ == "__main__":
    main()
