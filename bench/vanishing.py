"""A thousand clients that come and go for five minutes: nothing leaks, no answer changes, every token is paid for.

    python -m bench.vanishing                       →  bench/results/vanishing.json
    python -m bench.vanishing --clients 200 --seconds 60

All clients are there at once. Each asks, streamed or not, for one answer or two, and either stays to the end or hangs
up at a random moment: in the queue, in the thought, in the middle of an event. Those that stay have one key, the
others another. Two questions in seven are long; a deterministic server computes them anew each time. Every answer to
the end must be the one that the same question got from an idle server; the ledger of those that stay must be the sum
of what they were told they used; afterwards no answer is under way, no bill is open, and as many clients as there are
places find a place each. Memory of the server and of its engine is read before, after a fifth of the time, when a
crowd has been there, and at the end: between the last two it may grow by a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx

from bench.overhead import endless
from bench.peers.__main__ import located
from bench.recipe import machine, write
from bench.serve import free_port, running
from thinkery.cli.models import find_model
from thinkery.serve.ledger import Ledger

LONG = "ball cup what two is red why sum " * 9
QUESTIONS = [f"what is {word}" for word in ("red", "blue", "two", "a cup", "a sum")] + [LONG + "two", LONG + "red"]
SUMS = ("prompt", "hit", "miss", "completion", "reasoning")


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client asks for."""

    question: str
    n: int
    stream: bool

    def body(self, tokens: int) -> bytes:
        """A request whose answer depends on the question alone."""
        messages = [{"role": "user", "content": self.question}]
        settings = {"temperature": 1.3, "seed": 3, "max_tokens": tokens, "n": self.n, "stream": self.stream}
        return json.dumps({"model": "deepseek-reasoner", "messages": messages, **settings}).encode()


@dataclass(slots=True)
class Seen:
    """What all clients saw."""

    requests: int = 0
    vanished: int = 0
    refused: int = 0
    ended: list[tuple[Ask, str, list[dict[str, Any]], dict[str, Any]]] = field(default_factory=list)
    """What was asked, by which key, the messages, and the usage."""

    def and_then(self, later: Seen) -> Seen:
        """Both together."""
        counts = self.requests + later.requests, self.vanished + later.vanished, self.refused + later.refused
        return Seen(*counts, self.ended + later.ended)


def main() -> None:
    """Let them come and go, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=300.0)
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        (model := Path(folder) / "model").mkdir()
        found = vanishing(
            endless(located(str(find_model(args.model))), model), Path(folder), args.clients, args.seconds
        )
    write("vanishing", {
        "date": date.today().isoformat(),
        "machine": machine(),
        "command": ["python", "-m", "bench.vanishing", *sys.argv[1:]],
        "wall_s": round(time.monotonic() - began, 1),
        "model": args.model,
        **found,
    })  # fmt: skip


def vanishing(model: str, folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Serve a model to a crowd; what was found, with everything that must hold under `holds`."""
    book = folder / "serve.db"
    ledger = Ledger(book)
    keys = {name: ledger.create_key(name) for name in ("stays", "vanishes")}
    secrets = {name: secret for name, (_, secret) in keys.items()}
    ledger.close()
    command = [sys.executable, "-m", "thinkery.cli", "serve", model, f"port={(port := free_port())}", "threads=1"]
    command += ["--ledger", str(book), "deterministic=true", "max_batch=32", "max_len=512"]
    command += [f"limits.waiting={2 * clients}", "limits.queue_s=600"]  # a request has one answer or two
    with running(command, folder / "log") as process:
        wait_for(folder / "log", process)
        asks = [Ask(question, n, stream) for question in QUESTIONS for n in (1, 2) for stream in (False, True)]
        alone = asyncio.run(one_by_one(port, secrets["stays"], asks))
        memory = [resident(process.pid)]
        seen = asyncio.run(crowd(port, secrets, asks, clients, seconds / 5))
        memory.append(resident(process.pid))
        seen = seen.and_then(asyncio.run(crowd(port, secrets, asks, clients, seconds * 4 / 5)))
        told = [usage for _, usage in alone.values()] + [usage for _, key, _, usage in seen.ended if key == "stays"]
        quiet_s, metrics = quiet(port, secrets["stays"])
        memory.append(resident(process.pid))
        places = asyncio.run(all_at_once(port, secrets["stays"], 2 * clients))
        told += places
        process.terminate()
        stopped = process.wait(60)
    rows = ledger_rows(book)
    paid = [row for row in rows if row["key"] == keys["stays"][0].id]
    sums = {name: (sum(row[name] for row in paid), sum(used(usage, name) for usage in told)) for name in SUMS}
    same = sum(messages == alone[ask][0] for ask, _, messages, _ in seen.ended)
    holds = {
        "answers_are_the_same": same == len(seen.ended),
        "ledger_is_the_sum_of_usage": len(paid) == len(told) and all(ours == theirs for ours, theirs in sums.values()),
        "costs_are_exact": all(row["cost"] == cost(row) for row in rows),
        "no_request_was_refused": seen.refused == 0,
        "nothing_is_under_way": "num_requests_running 0.0" in metrics and "num_requests_waiting 0.0" in metrics,
        "no_bill_is_open": open_bills(book) == 0,
        "every_place_is_free": len(places) == 2 * clients,
        "memory_does_not_grow": all(memory[2][name] <= 1.1 * memory[1][name] for name in memory[0]),
        "the_server_stopped_by_itself": stopped == 0,
    }
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": seen.requests,
        "answered_to_the_end": len(seen.ended),
        "the_same_answer": same,
        "vanished": seen.vanished,
        "charged_as_cancelled": sum(row["cancelled"] for row in rows),
        "ledger": {name: ours for name, (ours, _) in sums.items()},
        "usage": {name: theirs for name, (_, theirs) in sums.items()},
        "open_bills": open_bills(book),
        "places_found_afterwards": len(places),
        "quiet_after_s": round(quiet_s, 2),
        "resident_mb": {
            name: dict(zip(("before", "after_a_fifth", "after"), (one[name] for one in memory), strict=True))
            for name in memory[0]
        },
        "holds": holds,
    }  # fmt: skip


# ---- clients


async def one_by_one(port: int, secret: str, asks: Sequence[Ask]) -> dict[Ask, tuple[list[dict[str, Any]], dict]]:
    """What an idle server says to each: messages and usage."""
    return {ask: read_answer(ask, await asked(port, secret, ask)) for ask in asks}


async def crowd(port: int, secrets: dict[str, str], asks: Sequence[Ask], clients: int, seconds: float) -> Seen:
    """Clients that ask again and again until the time is over."""
    seen, until = Seen(), time.monotonic() + seconds

    async def one(number: int) -> None:
        rng = random.Random(f"vanishing/{number}")
        await asyncio.sleep(rng.uniform(0, 2))
        while time.monotonic() < until:
            ask, stays = rng.choice(asks), rng.random() < 0.5
            key = "stays" if stays else "vanishes"
            seen.requests += 1
            try:
                async with asyncio.timeout(None if stays else rng.choice((0.5, 5.0, 30.0)) * rng.random()):
                    data = await asked(port, secrets[key], ask)
            except TimeoutError:
                seen.vanished += 1
            else:
                if not data.startswith(b"HTTP/1.1 200"):
                    seen.refused += 1
                    continue
                seen.ended.append((ask, key, *read_answer(ask, data)))

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one(number))
    return seen


async def all_at_once(port: int, secret: str, count: int) -> list[dict[str, Any]]:
    """So many short requests together; the usage of each that was answered."""
    ask = Ask(QUESTIONS[0], 1, False)
    found = await asyncio.gather(*(asked(port, secret, ask, tokens=1) for _ in range(count)))
    return [read_answer(ask, data)[1] for data in found if data.startswith(b"HTTP/1.1 200")]


async def asked(port: int, secret: str, ask: Ask, tokens: int = 32) -> bytes:
    """All that the server sends, up to its end; who is interrupted hangs up at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = ask.body(tokens)
        lines = ("POST /chat/completions HTTP/1.1", "Host: 127.0.0.1", "Connection: close",
                 f"Authorization: Bearer {secret}", f"Content-Length: {len(body)}", "", "")  # fmt: skip
        writer.write("\r\n".join(lines).encode() + body)
        return await reader.read()
    finally:
        writer.transport.abort()


def read_answer(ask: Ask, data: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Messages and usage of a response."""
    _, _, body = data.partition(b"\r\n\r\n")
    if not ask.stream:
        answer = json.loads(body)
        return [choice["message"] for choice in answer["choices"]], answer["usage"]
    messages = [{"role": "assistant", "content": "", "reasoning_content": ""} for _ in range(ask.n)]
    usage: dict[str, Any] = {}
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            usage = chunk["usage"] or usage
            for choice in chunk["choices"]:
                for kind in ("content", "reasoning_content"):
                    messages[choice["index"]][kind] += choice["delta"].get(kind) or ""
    return messages, usage


# ---- what is left


def wait_for(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when the server listens."""
    while " at http" not in log.read_text():
        if process.poll() is not None:
            sys.exit(log.read_text()[-4000:])
        time.sleep(0.05)


def quiet(port: int, secret: str) -> tuple[float, str]:
    """Seconds until nothing is under way any more, a minute at most, and the metrics then."""
    began = time.monotonic()
    metrics = ""
    while time.monotonic() < began + 60:
        with suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{port}/metrics"
            metrics = httpx.get(url, headers={"authorization": f"Bearer {secret}"}, timeout=30).text
        if "num_requests_running 0.0" in metrics and "num_requests_waiting 0.0" in metrics:
            break
        time.sleep(0.1)
    return time.monotonic() - began, metrics


def resident(server: int) -> dict[str, float]:
    """Memory in MB of a server, and of all processes that it has started."""
    return {"server": held(server), "engines": round(sum(held(pid) for pid in children(server)), 1)}


def held(pid: int) -> float:
    """Memory of a process in MB."""
    return round(int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) * 4096 / 1e6, 1)


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that those have."""
    own = [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
    return own + [later for one in own for later in children(one)]


def ledger_rows(book: Path) -> list[dict[str, Any]]:
    """The ledger, row by row."""
    database = sqlite3.connect(book)
    database.row_factory = sqlite3.Row
    rows = [dict(row) for row in database.execute("SELECT * FROM ledger")]
    database.close()
    return rows


def open_bills(book: Path) -> int:
    """Bills that nobody closed."""
    database = sqlite3.connect(book)
    (count,) = database.execute("SELECT count(*) FROM bills").fetchone()
    database.close()
    return count


def used(usage: dict[str, Any], name: str) -> int:
    """A number of a usage, by its name in the ledger."""
    if name == "reasoning":
        return usage["completion_tokens_details"]["reasoning_tokens"]
    return usage[{"hit": "prompt_cache_hit_tokens", "miss": "prompt_cache_miss_tokens"}.get(name, f"{name}_tokens")]


def cost(row: dict[str, Any]) -> int:
    """Nano-USD of a row."""
    return 140 * row["hit"] + 550 * row["miss"] + 2190 * row["completion"]


if __name__ == "__main__":
    main()
