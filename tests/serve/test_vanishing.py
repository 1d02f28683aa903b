"""Many clients that come and go at random: nothing leaks, nobody's answer changes, every token is on a bill."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.serve.conftest import serving

CLIENTS = 1000
AT_ONCE = 50
QUESTIONS = [f"what is {word}" for word in ("red", "blue", "two", "a cup", "a sum")]


def body(question: str) -> dict:
    """A request whose answer depends on the question alone."""
    messages = [{"role": "user", "content": question}]
    return {"model": "deepseek-reasoner", "messages": messages, "temperature": 1.3, "seed": 3, "max_tokens": 48}


def lines(path: Path) -> Iterator[dict]:
    """The ledger, row by row."""
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    yield from map(dict, database.execute("SELECT * FROM ledger"))
    database.close()


def resident(pid: int) -> int:
    """A process's memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
def test_clients_that_vanish_leave_nothing_behind(thinker, tmp_path):
    with serving(thinker, "deterministic=true", "max_batch=64", "max_len=128", folder=tmp_path) as server:
        with server.client() as client:
            alone = {question: client.post("/chat/completions", json=body(question)).json() for question in QUESTIONS}
            before = resident(server.process.pid)
            survivors = asyncio.run(crowd(server.url))
            patience = time.monotonic() + 60
            while "num_requests_running 0.0" not in client.get("/metrics").text and time.monotonic() < patience:
                time.sleep(0.1)
            metrics = client.get("/metrics").text
            assert "num_requests_running 0.0" in metrics
            assert "num_requests_waiting 0.0" in metrics
            assert resident(server.process.pid) < before + 100e6
        for question, answer in survivors:
            assert answer["choices"][0]["message"] == alone[question]["choices"][0]["message"]
        rows = list(lines(tmp_path / "runs" / "serve.db"))
        told = [answer["usage"] for answer in (*alone.values(), *(answer for _, answer in survivors))]
        heard = [row for row in rows if not row["cancelled"]]
        assert len(heard) >= len(told)  # an answer may be charged while its client is hanging up
        assert len(rows) <= len(told) + CLIENTS
        assert sum(row["completion"] for row in heard) >= sum(usage["completion_tokens"] for usage in told)
        assert all(row["cost"] == 140 * row["hit"] + 550 * row["miss"] + 2190 * row["completion"] for row in rows)


async def crowd(url: str) -> list[tuple[str, dict]]:
    """The questions and answers of clients that stayed."""
    rng = random.Random(1)
    stayed: list[tuple[str, dict]] = []
    places = asyncio.Semaphore(AT_ONCE)

    async def one(question: str, patience_s: float | None) -> None:
        async with places, httpx.AsyncClient(base_url=url, timeout=300) as client:
            try:
                async with asyncio.timeout(patience_s):
                    answer = await client.post("/chat/completions", json=body(question))
            except TimeoutError:
                return
            stayed.append((question, answer.json()))

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(one(rng.choice(QUESTIONS), rng.choice([None, rng.uniform(0, 0.5)])))
    return stayed
