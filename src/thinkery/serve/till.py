"""The ledger as the server's event loop uses it: bills are opened before and closed after.

A bill is written at once, which takes less than handing it to a thread; where somebody else writes just then, a thread
waits for that. The thread also copies SQLite's log into the file, which waits for the disk. Keys are looked up at once,
since in WAL mode nobody who reads waits for who writes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from thinkery.pipeline.prices import Prices
from thinkery.serve.call import Call, Usage
from thinkery.serve.ledger import LOCAL, Bill, Item, Key, Ledger, Outcome
from thinkery.serve.meter import Meter
from thinkery.serve.refusals import overloaded

T = TypeVar("T")

LOG_BYTES = 2**24
"""Of SQLite's log before it is copied into the file: of some 600 requests."""


class Till:
    """One server's hold on a ledger, from `Till(…)` to `close`; charges at once what a killed server left."""

    def __init__(self, path: Path, prices: Prices, slots: int) -> None:
        self.ledger, self.keys, self.patient = Ledger(path, patience_s=0.0), Ledger(path), Ledger(path)
        """What writes at once, what looks keys up, and what waits, in the thread."""
        self.prices = prices
        self.meter = Meter(path.with_name(path.name + ".meter"), slots)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self.copy: Future[None] | None = None
        self.recovered = self.patient.settle_left(self.meter.left)
        """Requests of a killed server that were charged now."""

    async def do(self, work: Callable[[Ledger], T]) -> T:
        """Have something done in the ledger."""
        if not self.copying:
            try:
                return work(self.ledger)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.thread, work, self.patient))

    @property
    def copying(self) -> bool:
        """Whether the thread copies the log: what is to be written then comes after it."""
        return self.copy is not None and not self.copy.done()

    def tidy(self) -> None:
        """Have SQLite's log copied once it is long."""
        if not self.copying and self.ledger.log_bytes > LOG_BYTES:
            self.copy = self.thread.submit(self.patient.copy_log)

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
            await self.do(lambda ledger: ledger.open_bill(bill))
        except Exception:  # who is cancelled may have had it written: the slots stay with it
            self.give_back(bill)
            raise
        return bill

    async def charge(self, bill: Bill, call: Call, finish: str, *, cancelled: bool) -> Usage:
        """Charge a request that has ended."""
        outcome = Outcome(call.usage, finish, cancelled, call.first_s, call.seconds)
        await self.do(lambda ledger: ledger.close_bill(bill, outcome))
        self.give_back(bill)
        self.tidy()
        return outcome.usage

    def give_back(self, bill: Bill) -> None:
        """The meter's slots of a request are free."""
        for item in bill.items:
            self.meter.give_back(item.job)

    def close(self) -> None:
        """Let the next server have the ledger."""
        self.thread.shutdown()
        for ledger in (self.ledger, self.keys, self.patient):
            ledger.close()
        self.meter.close()
