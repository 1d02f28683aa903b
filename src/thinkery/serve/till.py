"""The ledger as the server's event loop uses it: bills are opened before and closed after, in a thread of their own.

Keys are looked up at once: in SQLite's WAL mode nobody who reads waits for who writes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from thinkery.pipeline.prices import Prices
from thinkery.serve.call import Call, Usage
from thinkery.serve.ledger import LOCAL, Bill, Item, Key, Ledger, Outcome
from thinkery.serve.meter import Meter
from thinkery.serve.refusals import overloaded

T = TypeVar("T")


class Till:
    """One server's hold on a ledger, from `Till(…)` to `close`; charges at once what a killed server left."""

    def __init__(self, path: Path, prices: Prices, slots: int) -> None:
        self.ledger, self.keys, self.prices = Ledger(path), Ledger(path), prices
        """One to write, in the thread, and one to look keys up."""
        self.meter = Meter(path.with_name(path.name + ".meter"), slots)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self.recovered = self.ledger.settle_left(self.meter.left)
        """Requests of a killed server that were charged now."""

    async def do(self, work: Callable[[], T]) -> T:
        """Have something done in the ledger's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, work)

    def key_of(self, secret: str) -> Key | None:
        """Who a secret belongs to; without any keys, everybody is "local"."""
        return self.keys.key_of(secret) if self.keys.has_keys() else Key(LOCAL, LOCAL)

    async def open(self, call: Call, key: Key) -> Bill:
        """Note a request before it begins."""
        if len(call.jobs) > len(self.meter.free):
            raise overloaded()
        slots = {job.id: self.meter.take(job.id) for job in call.jobs}
        items = [Item(job.id, slots[job.id], prompt) for job, prompt in zip(call.jobs, call.prompts, strict=True)]
        bill = Bill(str(uuid4()), key.id, call.jobs[0].model, tuple(items), self.prices, time.time())
        try:
            await self.do(lambda: self.ledger.open_bill(bill))
        except BaseException:
            self.give_back(bill)
            raise
        return bill

    async def charge(self, bill: Bill, call: Call, finish: str, *, cancelled: bool) -> Usage:
        """Charge a request that has ended."""
        outcome = Outcome(call.usage, finish, cancelled, call.first_s, call.seconds)
        await self.do(lambda: self.ledger.close_bill(bill, outcome))
        self.give_back(bill)
        return outcome.usage

    def give_back(self, bill: Bill) -> None:
        """The meter's slots of a request are free."""
        for item in bill.items:
            self.meter.give_back(item.job)

    def close(self) -> None:
        """Let the next server have the ledger."""
        self.thread.shutdown()
        self.ledger.close()
        self.keys.close()
        self.meter.close()
