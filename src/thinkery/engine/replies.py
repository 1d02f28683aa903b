"""Replies of an endpoint kept in a file (SQLite), so that what was asked and paid for once is not asked again."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from thinkery.core import Completion
from thinkery.errors import InputError


class Replies:
    """Completions by everything that was sent for them; safe to use from several threads and processes."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        try:
            self._base = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
            self._base.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, completion TEXT NOT NULL)")
        except sqlite3.Error as error:
            hint = "name a file in a folder that exists; a new one is made"
            raise InputError("this file cannot keep replies", where=path, found=str(error), hint=hint) from error

    def find(self, asked: dict[str, Any]) -> Completion | None:
        """The reply to exactly this request, None if it was never kept."""
        with self._lock:
            row = self._base.execute("SELECT completion FROM replies WHERE key = ?", (_key(asked),)).fetchone()
        return Completion(**json.loads(row[0], object_hook=_tuples)) if row else None

    def keep(self, asked: dict[str, Any], completion: Completion) -> None:
        """Remember a reply; the first one to a request stays."""
        row = (_key(asked), json.dumps(asdict(completion), ensure_ascii=False))
        with self._lock:
            self._base.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()


def _key(asked: dict[str, Any]) -> str:
    return blake2b(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode(), digest_size=20).hexdigest()


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
