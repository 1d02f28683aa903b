"""What `thinkery serve` costs beside its engine: processor time per token from the engine's step to the socket.

    python -m bench.overhead              →  bench/results/overhead.json; the machine should do nothing else
    python -m bench.overhead tiny --clients 1 8 --rounds 1

The server answers streams to clients that do no more than read sockets; what its process and its engine's process have
used is read from the operating system. Then an engine in a process of its own gets the same prompts and seeds, as many
at a time. Own cost is the difference in processor time, over the tokens. On few cores the clients count too: tokens a
second through sockets and without them stand beside it. The model's end of sequence is made the token that it says
least, so that all answers have the same length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from bench.peers.__main__ import located
from bench.recipe import machine, write
from bench.serve import free_port, running
from thinkery.chat import THINK_CHAT
from thinkery.cli.models import find_model
from thinkery.core import Message, Sampling, seed_of
from thinkery.engine import EngineConfig, open_engine
from thinkery.engine.base import Request
from thinkery.model.hf import load_model
from thinkery.model.tokenizer import read_json
from thinkery.serve.replica import PREFILL

TICKS = os.sysconf("SC_CLK_TCK")
NAME = "deepseek-reasoner"
TEMPERATURE = 1.0
TOKENS = 64
"""Of one answer, at most."""


@dataclass(frozen=True, slots=True)
class Used:
    """What so many tokens took: seconds of processors by process, and seconds on the clock."""

    tokens: int
    server_s: float
    engine_s: float
    wall_s: float


def main() -> None:
    """Measure with every number of clients, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny", help="a name that `thinkery serve` takes")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3, help="medians are told")
    parser.add_argument("--answers", type=int, default=48, help="of all clients; two of each at least")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--before", type=Path, help="results of an earlier version, to be kept beside")
    parser.add_argument("--alone", type=int, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(alone(args.model, *args.alone)))
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        args.folder = endless(located(str(find_model(args.model))), Path(folder))
        found = {str(count): compared(args, count) for count in args.clients}
    before = {"before": json.loads(args.before.read_text())["clients"]} if args.before else {}
    write("overhead", {
        "date": date.today().isoformat(),
        "machine": machine(),
        "command": ["python", "-m", "bench.overhead", *sys.argv[1:]],
        "wall_s": round(time.monotonic() - began, 1),
        "model": args.model,
        "threads": args.threads,
        "clients": found,
        **before,
    })  # fmt: skip


def endless(model: Path, folder: Path) -> str:
    """A copy of a model folder in which a turn ends with the token that it says least; with a template of turns."""
    import torch

    network, tokenizer = load_model(model)
    tokens = tokenizer.encode(question(0, 0))
    with torch.inference_mode():
        logits_TV = network.logits(network.packed(torch.tensor(tokens), [len(tokens)]))
    rarest = int(logits_TV.amax(0).argmin())
    for path in model.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
    ):
        (folder / name).unlink(missing_ok=True)
    eos = tokenizer.backend.id_to_token(rarest)
    replace(tokenizer, eos=eos, pad=eos, template=THINK_CHAT).save(folder)
    (folder / "config.json").write_text(json.dumps(read_json(model / "config.json") | {"eos_token_id": rarest}))
    return str(folder)


def compared(args: argparse.Namespace, count: int) -> dict[str, float]:
    """The medians of the rounds with so many clients."""
    rounds = []
    for _ in range(args.rounds):
        served, engine = through_server(args, count), by_engine(args, count)
        rounds.append(figures(served, engine))
    found = {name: median(one[name] for one in rounds) for name in rounds[0]}
    print(count, json.dumps({name: round(value, 4) for name, value in found.items()}), file=sys.stderr, flush=True)
    return found


def figures(served: Used, engine: Used) -> dict[str, float]:
    """Milliseconds of processors per token, and tokens a second."""
    server, replica = (1e3 * seconds / served.tokens for seconds in (served.server_s, served.engine_s))
    alone = 1e3 * engine.engine_s / engine.tokens
    return {
        "own_ms": server + replica - alone,
        "server_ms": server,
        "replica_ms": replica,
        "engine_alone_ms": alone,
        "tokens_per_s": served.tokens / served.wall_s,
        "engine_alone_tokens_per_s": engine.tokens / engine.wall_s,
    }


# ---- through the server


def through_server(args: argparse.Namespace, count: int) -> Used:
    """The work, by clients of a new server."""
    with served(args.folder, args.threads) as (port, pid):
        asyncio.run(crowd(port, 1, 2, seed=-1))
        replica = child_of(pid)
        before, began = [processor_s(one) for one in (pid, replica)], time.perf_counter()
        tokens = asyncio.run(crowd(port, count, each(args, count), seed=0))
        wall_s = time.perf_counter() - began
        server_s, engine_s = (processor_s(one) - b for one, b in zip((pid, replica), before, strict=True))
    return Used(tokens, server_s, engine_s, wall_s)


@contextmanager
def served(model: str, threads: int) -> Iterator[tuple[int, int]]:
    """Port and process id of a server."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "thinkery.cli", "serve", model, f"port={(port := free_port())}"]
        command += [f"threads={threads}"]
        log = Path(folder) / "log"
        with running([*command, "--ledger", str(Path(folder) / "serve.db")], log) as process:
            while " at http" not in log.read_text():
                if process.poll() is not None:
                    sys.exit(log.read_text()[-4000:])
                time.sleep(0.05)
            yield port, process.pid


def child_of(pid: int) -> int:
    """The engine's process of a server with one replica."""
    children = (Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text().split()
    commands = {int(one): (Path("/proc") / one / "cmdline").read_bytes() for one in children}
    (found,) = [one for one, command in commands.items() if b"spawn_main" in command]
    return found


def processor_s(pid: int) -> float:
    """User and system time of a process until now."""
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def each(args: argparse.Namespace, count: int) -> int:
    """Answers of one client."""
    return max(2, args.answers // count)


async def crowd(port: int, clients: int, answers: int, *, seed: int) -> int:
    """So many clients, each with its answers one after the other; returns the tokens of all."""
    counts = await asyncio.gather(*(one_client(port, client, answers, seed) for client in range(clients)))
    return sum(counts)


async def one_client(port: int, client: int, answers: int, seed: int) -> int:
    """Ask and read to the end, on one connection; the last chunk has the count."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    tokens = 0
    for number in range(answers):
        body = json.dumps({
            "model": NAME, "messages": [{"role": "user", "content": question(client, number)}], "stream": True,
            "temperature": TEMPERATURE, "seed": seed_of(seed, 0, str(client), number) % 2**31, "max_tokens": TOKENS,
        }).encode()  # fmt: skip
        head = f"POST /chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            if not (more := await reader.read(2**16)):
                raise ConnectionError(data[-500:])
            data += more
        if b"[DONE]" not in data:
            sys.exit(data.decode(errors="replace"))
        tokens += int(data.rpartition(b'"completion_tokens":')[2].partition(b",")[0])
    writer.close()
    return tokens


def question(client: int, number: int) -> str:
    """What a client asks."""
    return f"{client} and {number} balls are under the red cup, and we swap it with the blue one. How many are there?"


# ---- by the engine alone


def by_engine(args: argparse.Namespace, count: int) -> Used:
    """The same work in a process that has nothing but the engine."""
    command = [sys.executable, "-m", "bench.overhead", args.folder, "--alone"]
    numbers = [str(number) for number in (count, each(args, count), args.threads)]
    return Used(**json.loads(subprocess.run([*command, *numbers], check=True, capture_output=True).stdout))


def alone(model: str, clients: int, answers: int, threads: int) -> dict[str, Any]:
    """What the engine uses for it, in this process."""
    import torch

    torch.set_num_threads(threads)
    network, tokenizer = load_model(Path(model))
    cfg = EngineConfig(max_batch=64, kv_memory=2.0, prefill=PREFILL, dtype="fastest")
    with open_engine(network, tokenizer, cfg) as engine:
        run(engine, 1, 2, seed=-1)
        before, began = time.process_time(), time.perf_counter()
        tokens = run(engine, clients, answers, seed=0)
        return {
            "tokens": tokens,
            "server_s": 0.0,
            "engine_s": time.process_time() - before,
            "wall_s": time.perf_counter() - began,
        }


def run(engine: Any, clients: int, answers: int, *, seed: int) -> int:
    """Ask and step; a client's next question follows its last answer."""
    left = {client: list(range(answers)) for client in range(clients)}
    out = {engine.submit(request(client, left[client].pop(0), seed)): client for client in left}
    tokens = 0
    while out:
        for event in engine.step():
            tokens += len(event.tokens)
            if event.completion is not None:
                client = out.pop(event.request)
                if left[client]:
                    out[engine.submit(request(client, left[client].pop(0), seed))] = client
    return tokens


def request(client: int, number: int, seed: int) -> Request:
    """What the server asks its engine for the same question."""
    asked = seed_of(seed, 0, str(client), number) % 2**31
    sampling = Sampling(TEMPERATURE, 0.95, 0, TOKENS)
    messages = (Message("user", question(client, number)),)
    return Request((seed_of(asked, 0, "0", 0),), sampling, messages=messages, salt="local", followed=True)


if __name__ == "__main__":
    main()
