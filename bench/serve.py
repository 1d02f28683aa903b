"""The server under load: time to first token and throughput at 1, 8 and 64 clients, and what a cached prefix is worth.

    python -m bench.serve smollm2                                   # starts `thinkery serve smollm2`, measures it
    python -m bench.serve --url http://127.0.0.1:8001/v1 --name M   # measures any other OpenAI-style server likewise

Every client holds conversations of several turns, one after the other, with a system prompt that all share. What is
asked, in which order, and how many tokens are wanted depends on the seed alone, so that two servers get the same work;
answers are cut at a fixed number of tokens. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

WORDS = ("the", "ball", "is", "under", "a", "red", "cup", "and", "we", "swap", "it", "with", "two", "blue", "ones")


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients do."""

    conversations: int
    """In all, shared out among the clients."""
    turns: int
    system_words: int
    question_words: int
    answer_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as a client saw it, in seconds and tokens."""

    first_s: float
    whole_s: float
    tokens: int


def main() -> None:
    """Measure each number of clients in turn."""
    args = arguments()
    load = Load(args.conversations, args.turns, args.system_words, args.question_words, args.answer_tokens, args.seed)
    with server(args) as (url, name):
        wait_until_ready(url, name)
        results = {str(count): asyncio.run(measure(url, name, count, load)) for count in args.clients}
        cached = asyncio.run(measure_prefix(url, name, args.prefix_words))
    print(json.dumps({"model": args.model or args.name, "clients": results, "cached_prefix": cached}, indent=2))


def arguments() -> argparse.Namespace:
    """What to measure and how hard."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="", help="what `thinkery serve` is to serve")
    parser.add_argument("settings", nargs="*", default=[], help="its settings, key=value")
    parser.add_argument("--url", default="", help="another server's address, before /chat/completions")
    parser.add_argument("--name", default="deepseek-reasoner", help="the model's name there")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    for name, default in {"conversations": 64, "turns": 3, "system-words": 150, "question-words": 30}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--prefix-words", type=int, default=1200, help="words of the prefix that is sent twice")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


@contextmanager
def server(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(address, model name) of the server to measure, started here unless one is named."""
    if args.url:
        yield args.url.rstrip("/"), args.name
        return
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        ledger = ["--ledger", str(Path(folder) / "serve.db")]
        command = [sys.executable, "-m", "thinkery.cli", "serve", args.model, "port=0", *args.settings, *ledger]
        with open(log, "w") as stderr:
            process = subprocess.Popen(command, stderr=stderr)
        try:
            while " at http" not in (text := log.read_text()):
                if process.poll() is not None:
                    sys.exit(text)
                time.sleep(0.1)
            yield text.split(" at ")[1].split()[0] + "/v1", args.name
        finally:
            process.terminate()
            process.wait()


def wait_until_ready(url: str, name: str) -> None:
    """Have one answer made, which loads the model."""
    body = {"model": name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    httpx.post(f"{url}/chat/completions", json=body, timeout=600).raise_for_status()


async def measure(url: str, name: str, count: int, load: Load) -> dict[str, float]:
    """So many clients at the same time; conversations begin as clients become free."""
    rng = random.Random(f"{load.seed}/{count}")
    system = words(rng, load.system_words)
    waiting = [[words(rng, load.question_words) for _ in range(load.turns)] for _ in range(load.conversations)]
    answers: list[Answered] = []
    started = time.perf_counter()
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:

        async def one_client() -> None:
            while waiting:
                messages = [{"role": "system", "content": system}]
                for question in waiting.pop():
                    messages.append({"role": "user", "content": question})
                    text, answered = await ask(client, url, name, messages, load.answer_tokens)
                    answers.append(answered)
                    messages.append({"role": "assistant", "content": text})

        await asyncio.gather(*(one_client() for _ in range(count)))
    seconds = time.perf_counter() - started
    first = [answer.first_s for answer in answers]
    return {
        "answers": len(answers),
        "first_p50_s": float(np.percentile(first, 50)),
        "first_p99_s": float(np.percentile(first, 99)),
        "whole_p50_s": float(np.percentile([answer.whole_s for answer in answers], 50)),
        "tokens_per_s": sum(answer.tokens for answer in answers) / seconds,
        "requests_per_s": len(answers) / seconds,
    }


async def measure_prefix(url: str, name: str, count: int) -> dict[str, float]:
    """Seconds to the first token for a long prompt that is new, and for the same one again; medians of five."""
    rng = random.Random(7)
    times: dict[str, list[float]] = {"new": [], "again": []}
    async with httpx.AsyncClient(timeout=600) as client:
        for _ in range(5):
            messages = [{"role": "user", "content": words(rng, count)}]
            for found in times.values():
                _, answered = await ask(client, url, name, messages, 1)
                found.append(answered.first_s)
    new, again = (float(np.median(found)) for found in times.values())
    return {"new_s": new, "again_s": again, "times_sooner": new / again}


async def ask(
    client: httpx.AsyncClient, url: str, name: str, messages: list[dict[str, str]], tokens: int
) -> tuple[str, Answered]:
    """One streamed answer, of thought and content; the first chunk with text in it counts as the first token."""
    body = {"model": name, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
    body |= {"stream_options": {"include_usage": True}}
    started, first, text, used = time.perf_counter(), None, "", 0
    async with client.stream("POST", f"{url}/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            used = (chunk.get("usage") or {}).get("completion_tokens", used)
            for choice in chunk["choices"]:
                said = [choice["delta"].get(kind) or "" for kind in ("reasoning_content", "content")]
                text += said[1]
                if any(said) and first is None:
                    first = time.perf_counter() - started
    whole = time.perf_counter() - started
    return text, Answered(whole if first is None else first, whole, used)


def words(rng: random.Random, count: int) -> str:
    """A text of so many words."""
    return " ".join(rng.choices(WORDS, k=count))


if __name__ == "__main__":
    main()
