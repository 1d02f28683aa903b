"""Keys, credit, and what every request cost: SQLite (WAL), in integers of nano-USD.

    ledger = Ledger(path)
    key, secret = ledger.create_key("laptop", credit=5 * USD)      # the secret is not kept, only its hash
    ledger.open_bill(bill)                                         # before anything is computed
    ledger.close_bill(request, usage, ...)                         # before the client has the last word

A request is one row of `ledger`, written together with what its key has spent. Until then it is in `bills`, and how
far it has come is in the `Meter`, so that a killed server's requests are charged for what they had generated when
the next one opens the ledger (`settle_left`), once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkery.errors import InputError, UsageError
from thinkery.pipeline.prices import Prices
from thinkery.serve.call import Usage

USD = 10**9
"""Nano-USD in a dollar."""

LOCAL = "local"
"""Whoever uses a server without keys."""

GROUPS = {
    "key": "ledger.key AS key, coalesce(keys.name, ledger.key) AS name",  # several keys may have one name
    "day": "date(time, 'unixepoch') AS day",
    "model": "model",
}
"""What usage can be summed by, and what is told of each."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL UNIQUE, tail TEXT NOT NULL, created REAL NOT NULL,
    revoked REAL, granted INTEGER, topped_up INTEGER, spent INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS bills (
    job TEXT PRIMARY KEY, slot INTEGER NOT NULL, request TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
    time REAL NOT NULL, prompt INTEGER NOT NULL, hit_price INTEGER NOT NULL, miss_price INTEGER NOT NULL,
    completion_price INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS ledger (
    request TEXT PRIMARY KEY, time REAL NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, prompt INTEGER NOT NULL,
    hit INTEGER NOT NULL, miss INTEGER NOT NULL, completion INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    cost INTEGER NOT NULL, finish TEXT NOT NULL, first_s REAL, latency_s REAL, cancelled INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS ledger_time ON ledger (time);
"""


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks; `credit` None is not limited."""

    id: str
    name: str
    tail: str = ""
    created: float = 0.0
    revoked: float | None = None
    granted: int | None = None
    topped_up: int | None = None
    spent: int = 0

    @property
    def credit(self) -> int | None:
        """All that was ever given, in nano-USD."""
        if self.granted is None and self.topped_up is None:
            return None
        return (self.granted or 0) + (self.topped_up or 0)

    @property
    def balance(self) -> int | None:
        """What is left, which may be less than nothing."""
        return None if self.credit is None else self.credit - self.spent


@dataclass(frozen=True, slots=True)
class Item:
    """One answer of a request that is under way; `prompt` is 0 where another answer of it counts the same prompt."""

    job: str
    slot: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Bill:
    """A request under way, before anything of it is computed."""

    request: str
    key: str
    model: str
    items: tuple[Item, ...]
    prices: Prices
    time: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended."""

    usage: Usage
    finish: str
    cancelled: bool
    first_s: float | None
    latency_s: float | None


class Ledger:
    """One ledger file; used by one thread at a time.

    What it writes waits `patience_s` for others who write, then raises sqlite3.OperationalError. At 0 it does not wait
    for the disk either, and somebody must `copy_log`.
    """

    def __init__(self, path: Path, *, patience_s: float = 30.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.log = path, path.with_name(path.name + "-wal")
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.row_factory = sqlite3.Row
        self.database.execute("PRAGMA busy_timeout = 30000")
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing by it
        self.database.executescript(SCHEMA)
        path.chmod(0o600)
        self.database.execute(f"PRAGMA busy_timeout = {patience_s * 1000:.0f}")
        if not patience_s:
            self.database.execute("PRAGMA wal_autocheckpoint = 0")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield self.database
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    @property
    def log_bytes(self) -> int:
        """How long SQLite's log is."""
        return self.log.stat().st_size

    def copy_log(self) -> None:
        """Copy SQLite's log into the file and begin a new one, both of which wait for the disk."""
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.database.execute("PRAGMA user_version = 0")  # the first to write begins the log

    # ---- keys

    def create_key(self, name: str, *, granted: int | None = None) -> tuple[Key, str]:
        """A new key and its secret, which cannot be had again."""
        secret, id = f"sk-{secrets.token_hex(24)}", f"key_{secrets.token_hex(6)}"
        self.database.execute(
            "INSERT INTO keys (id, name, digest, tail, created, granted) VALUES (?, ?, ?, ?, ?, ?)",
            (id, name, digest_of(secret), secret[-4:], time.time(), granted),
        )
        return self.key(id), secret

    def keys(self) -> list[Key]:
        """Every key, the oldest first."""
        return [as_key(row) for row in self.database.execute("SELECT * FROM keys ORDER BY created")]

    def key(self, id: str) -> Key:
        """A key by its id; raises InputError."""
        row = self.database.execute("SELECT * FROM keys WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise InputError("no such key", where=str(self.path), found=id, hint="thinkery keys list")
        return as_key(row)

    def key_of(self, secret: str) -> Key | None:
        """The key that a secret belongs to, unless it was revoked."""
        digest = digest_of(secret)
        row = self.database.execute("SELECT * FROM keys WHERE digest = ?", (digest,)).fetchone()
        if row is None or row["revoked"] is not None or not hmac.compare_digest(row["digest"], digest):
            return None
        return as_key(row)

    def has_keys(self) -> bool:
        """Whether there has ever been one."""
        return self.database.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is not None

    def revoke(self, id: str) -> None:
        """From now on this key opens nothing."""
        self.key(id)
        self.database.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (time.time(), id))

    def top_up(self, id: str, amount: int) -> Key:
        """Add credit, in nano-USD; a key without a limit has one from now on."""
        self.key(id)
        sql = "UPDATE keys SET topped_up = coalesce(topped_up, 0) + ? WHERE id = ?"
        self.database.execute(sql, (amount, id))
        return self.key(id)

    # ---- bills

    def open_bill(self, bill: Bill) -> None:
        """A request begins; from now on it is charged whatever happens to the server."""
        prices = (bill.prices.hit, bill.prices.miss, bill.prices.completion)
        rows = [
            (one.job, one.slot, bill.request, bill.key, bill.model, bill.time, one.prompt, *prices)
            for one in bill.items
        ]
        with self.transaction() as database:
            database.executemany(f"INSERT INTO bills VALUES ({', '.join('?' * 10)})", rows)

    def close_bill(self, bill: Bill, outcome: Outcome) -> int:
        """A request has ended: its row, and what its key has spent; returns the cost."""
        cost = cost_of(outcome.usage, bill.prices)
        with self.transaction() as database:
            write_row(database, bill, outcome, cost)
        return cost

    def settle_left(self, meter: Mapping[int, Sequence[int]]) -> int:
        """Charge the requests that a killed server left, by what its meter says; returns how many."""
        rows = self.database.execute("SELECT * FROM bills ORDER BY request, slot").fetchall()
        requests: dict[str, list[sqlite3.Row]] = {}
        for row in rows:
            requests.setdefault(row["request"], []).append(row)
        for request, items in requests.items():
            first = items[0]
            prices = Prices(hit=first["hit_price"], miss=first["miss_price"], completion=first["completion_price"])
            bill = Bill(request, first["key"], first["model"], (), prices, first["time"])
            usage = total([usage_of(row["prompt"], meter.get(row["slot"], (0, 0, 0, 0))) for row in items])
            self.close_bill(bill, Outcome(usage, "lost", True, None, None))
        return len(requests)

    def usage(self, by: Sequence[str]) -> list[dict[str, Any]]:
        """Sums over the ledger, grouped by key (with its name), day or model, in any combination."""
        if unknown := [name for name in by if name not in GROUPS]:
            raise UsageError("cannot sum by this", found=", ".join(unknown), hint=f"any of {', '.join(GROUPS)}")
        columns = ", ".join(GROUPS[name] for name in by)
        sums = ", ".join(f"sum({name}) AS {name}" for name in ("prompt", "hit", "miss", "completion", "reasoning"))
        groups = ", ".join(by)
        order = ", ".join("name, key" if name == "key" else name for name in by)
        sql = (
            f"SELECT {columns}{', ' if by else ''}count(*) AS requests, {sums}, sum(cancelled) AS cancelled, "
            "sum(cost) AS cost FROM ledger LEFT JOIN keys ON keys.id = ledger.key"
            + (f" GROUP BY {groups} ORDER BY {order}" if by else "")
        )
        return [dict(row) for row in self.database.execute(sql) if row["requests"]]


def as_key(row: sqlite3.Row) -> Key:
    """A row of `keys`, without its digest."""
    return Key(**{name: row[name] for name in row.keys() if name != "digest"})  # noqa: SIM118


def digest_of(secret: str) -> bytes:
    """What is kept of a secret; it has 192 random bits, so that a plain hash gives nothing away."""
    return hashlib.sha256(secret.encode()).digest()


def cost_of(usage: Usage, prices: Prices) -> int:
    """Nano-USD."""
    return prices.hit * usage.hit + prices.miss * usage.miss + prices.completion * usage.completion


def write_row(database: sqlite3.Connection, bill: Bill, outcome: Outcome, cost: int) -> None:
    """Move a request from `bills` to `ledger`; nothing happens to one that is there already."""
    usage = outcome.usage
    row = (
        *(bill.request, bill.time, bill.key, bill.model, usage.prompt, usage.hit, usage.miss, usage.completion),
        *(usage.reasoning, cost, outcome.finish, outcome.first_s, outcome.latency_s, int(outcome.cancelled)),
    )
    written = database.execute(f"INSERT OR IGNORE INTO ledger VALUES ({', '.join('?' * 14)})", row).rowcount
    if written:
        database.execute("UPDATE keys SET spent = spent + ? WHERE id = ?", (cost, bill.key))
    database.execute("DELETE FROM bills WHERE request = ?", (bill.request,))


def usage_of(prompt: int, reading: Sequence[int]) -> Usage:
    """What one answer used, from the meter: (whether it began, reused, generated, of the thought)."""
    began, hit, completion, reasoning = reading
    return Usage(prompt if began else 0, hit if began and prompt else 0, completion, reasoning)


def total(usages: Sequence[Usage]) -> Usage:
    """What several answers used together."""
    return Usage(
        sum(one.prompt for one in usages),
        sum(one.hit for one in usages),
        sum(one.completion for one in usages),
        sum(one.reasoning for one in usages),
    )
