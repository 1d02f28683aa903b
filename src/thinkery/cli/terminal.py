"""How verbs talk: results on stdout, remarks on stderr, style only on a terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"

_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_UNSEEN = dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


def count(text: str) -> int:
    """A number of things that an argument says, at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def emit(data: Any) -> None:
    """Machine output: one JSON document on stdout."""
    print(json.dumps(data, ensure_ascii=False, indent=2, default=str))


def remark(text: str) -> None:
    """Something for the reader that is not the result; goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def styled(text: str, style: str) -> str:
    """The text in a style, where stdout is a terminal and NO_COLOR is not set."""
    return f"{style}{text}{PLAIN}" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def alarm_line(alarm: Mapping[str, Any]) -> str:
    """An alarm of the record in one line: its kind, what was seen, what to do; without control characters."""
    advice, setting = alarm.get("advice"), alarm.get("setting")
    remedy = "; ".join(part for part in (advice, setting and f"setting: {setting}") if part)
    line = f"{alarm['alarm']}: {alarm['message']}" + (f" ({remedy})" if remedy else "")
    return harmless(" ".join(line.split()))


def harmless(text: str) -> str:
    """The text of a model with what steers a terminal made visible: ESC as ␛, C1 and bidi controls as �."""
    return text.translate(_CONTROLS | _UNSEEN)


def table(rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Columns of text, left-aligned, two spaces apart."""
    cells = [[str(c) for c in row] for row in ([header] if header else []) + list(rows)]
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(max(map(len, cells), default=0))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in cells)
