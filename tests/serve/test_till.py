"""The ledger in an event loop: written at once, and nobody is held up by who else writes or by the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from thinkery.pipeline.prices import Prices
from thinkery.serve import till as module
from thinkery.serve.call import Usage
from thinkery.serve.ledger import Bill, Item, Outcome
from thinkery.serve.till import Till

DONE = Outcome(Usage(prompt=10, completion=5), "stop", cancelled=False, first_s=0.1, latency_s=0.2)


def bill(number: int) -> Bill:
    """A request of one job."""
    return Bill(f"r{number}", "local", "m", (Item(f"j{number}", 0, 10),), Prices(), 1.7e9)


@pytest.fixture
def till(tmp_path: Path):
    till = Till(tmp_path / "serve.db", Prices(), 8)
    yield till
    till.close()


def test_a_bill_is_written_before_anything_else_is_done(till):
    async def one() -> list[str]:
        order = []
        asyncio.get_running_loop().call_soon(order.append, "something else")
        await till.do(lambda ledger: ledger.open_bill(bill(1)))
        order.append("written")
        await asyncio.sleep(0)
        return order

    assert asyncio.run(one()) == ["written", "something else"]
    assert [row["request"] for row in till.keys.database.execute("SELECT * FROM bills")] == ["r1"]


def test_who_else_writes_is_waited_for_while_others_go_on(till):
    async def both() -> int:
        with closing(sqlite3.connect(till.ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            opening = asyncio.create_task(till.do(lambda ledger: ledger.open_bill(bill(1))))
            turns = 0
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                await asyncio.sleep(0.01)
                turns += 1
            assert not opening.done()
            other.execute("COMMIT")
        await asyncio.wait_for(opening, 10)
        await till.do(lambda ledger: ledger.close_bill(bill(1), DONE))
        return turns

    assert asyncio.run(both()) > 20
    assert [row["requests"] for row in till.keys.usage([])] == [1]


def test_another_error_is_raised(till):
    async def twice() -> None:
        for _ in range(2):
            await till.do(lambda ledger: ledger.open_bill(bill(1)))

    with pytest.raises(sqlite3.IntegrityError):
        asyncio.run(twice())
    assert not till.ledger.database.in_transaction


def test_the_log_is_copied_when_it_is_long_and_loses_nothing(till, monkeypatch):
    monkeypatch.setattr(module, "LOG_BYTES", 2**18)

    async def many() -> int:
        longest = 0
        for one in map(bill, range(400)):
            await till.do(lambda ledger, one=one: ledger.open_bill(one))
            await till.do(lambda ledger, one=one: ledger.close_bill(one, DONE))
            till.tidy()
            longest = max(longest, till.ledger.log_bytes)
            await asyncio.sleep(0)
        await asyncio.wrap_future(till.copy)
        return longest

    longest = asyncio.run(many())
    assert 2**18 < longest < 2**19  # all of it would be some 10 MB
    assert till.keys.usage([])[0]["requests"] == 400
    assert till.keys.database.execute("SELECT count(*) AS n FROM bills").fetchone()["n"] == 0
