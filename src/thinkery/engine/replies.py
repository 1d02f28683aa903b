"""Replies of an endpoint kept in a file (SQLite), so that what was asked and paid for once is not asked again."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from thinkery.core import Completion
from thinkery.errors import InputError
from thinkery.pipeline.files import disk_full


class Replies:
    """Completions by everything that was sent for them; safe to use from several threads and processes."""

    def __init__(self, path: str) -> None:
        self._path, self._lock = Path(path), threading.Lock()
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
        try:
            with self._lock:
                self._base.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", row)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise disk_full(self._path) from error
            raise InputError("this file cannot keep replies", where=str(self._path), found=str(error)) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()


def _key(asked: dict[str, Any]) -> str:
    return blake2b(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode(), digest_size=20).hexdigest()


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
