"""Reading files of rows that people wrote, JSON or Parquet: every problem is one error with file, line and a remedy."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from thinkery.errors import InputError
from thinkery.pipeline.artifact import read_parquet

Place = tuple[str, dict[str, Any]]
"""A row with where it stands, as `file:line` says it to the person who can correct it."""


def read_rows(path: Path) -> Iterator[Place]:
    """The objects of a .jsonl or .json file, gzipped or not, or of a .parquet file, in order; a .json file may hold one
    list of objects."""
    if not path.is_file():
        raise InputError("no such file", where=str(path), hint="check the path; relative paths start where you are")
    if path.suffix == ".parquet":
        for number, row in enumerate(read_parquet(path), start=1):
            where = f"{path}: row {number}"
            yield where, _object(_plain(row), where)
        return
    found = False
    try:
        with open_text(path) as lines:
            for place in _list(path, lines) if path.name.removesuffix(".gz").endswith(".json") else _lines(path, lines):
                found = True
                yield place
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", where=str(path), found=str(error), hint="convert it to UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError("cannot be read", where=str(path), found=str(error), hint="check that it is whole") from error
    if not found:
        raise InputError("the file is empty", where=str(path), hint="it needs one JSON object per line")


def open_text(path: Path) -> TextIO:
    """A text file, which may be gzipped and begin with a byte order mark."""
    return gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")


def _lines(path: Path, lines: TextIO) -> Iterator[Place]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                hint = "each line must be one whole JSON object; a .json file may hold a list instead"
                raise InputError(f"not JSON: {error}", where=where, found=_shorten(line), hint=hint) from error
            yield where, _object(row, where)


def _list(path: Path, file: TextIO) -> Iterator[Place]:
    try:
        rows = json.load(file)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        hint = "a .json file holds one list of objects; name it .jsonl when each line is an object"
        raise InputError(f"not JSON: {error}", where=str(path), hint=hint) from error
    if not isinstance(rows, list):
        raise InputError("not a list of objects", where=str(path), found=type(rows).__name__)
    for number, row in enumerate(rows, start=1):
        where = f"{path}: row {number}"
        yield where, _object(row, where)


def _plain(value: Any) -> Any:
    """A value of Parquet as JSON could hold it: dates and times as ISO text, decimals as numbers, bytes left out."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if not isinstance(one, bytes)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value if not isinstance(one, bytes)]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _object(row: Any, where: str) -> dict[str, Any]:
    text = json.dumps(row, ensure_ascii=False)
    if not isinstance(row, dict):
        found = f"{type(row).__name__} {_shorten(text)}"
        raise InputError("not a JSON object", where=where, found=found, hint='write {"question": …, "answer": …}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "half of a surrogate pair is no character", where=where, hint="remove the lone \\ud8xx"
        ) from error
    return row


def _shorten(text: str, limit: int = 60) -> str:
    text = text.strip()
    return text if len(text) <= limit else text[:limit] + "…"
