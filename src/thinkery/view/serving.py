"""What a server did, from its ledger: a SQLite file with one row for each request, which is only read.

Costs are in nano-USD, times in seconds. The columns are those of the table `ledger` (`time, key, model, prompt, hit,
completion, reasoning, cost, finish, first_s, latency_s, cancelled`), and `keys` gives keys their names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

USD = 10**9
MINUTE, HOUR = 60, 3600
BRIEF_S = 6 * HOUR
"""A course shorter than this is told by the minute."""
REQUESTS = """
SELECT time, ledger.key AS key, coalesce(keys.name, ledger.key) AS name, model, prompt, hit, completion, reasoning,
    cost, finish, first_s, latency_s, cancelled FROM ledger LEFT JOIN keys ON keys.id = ledger.key ORDER BY time
"""


@dataclass(frozen=True, slots=True)
class Sum:
    """What some requests were together."""

    name: str
    requests: int
    prompt: int
    hit: int
    completion: int
    reasoning: int
    cost: float
    """USD."""
    cancelled: int
    first_s: float | None
    """The median time to the first token."""
    slow_first_s: float | None
    """Its 95th percentile."""
    pace: float | None
    """The median of tokens a second within a request."""
    id: str = ""
    """A key's, since several may have one name; "" where it is the name."""

    @property
    def hit_rate(self) -> float | None:
        """The share of prompt tokens that came from the cache."""
        return self.hit / self.prompt if self.prompt else None


def serving_page(ledger: Path | None) -> dict[str, Any]:
    """Requests in all, by day, key and model, and their course; nothing without a ledger."""
    rows = read_requests(ledger) if ledger else []
    return {
        "ledger": ledger,
        "total": summed("all", rows) if rows else None,
        "tables": {name: grouped(rows, name) for name in ("day", "key", "model")},
        "charts": course(rows),
    }


def read_requests(ledger: Path) -> list[dict[str, Any]]:
    """Every request of a ledger, the oldest first; none where there is no such file."""
    if not ledger.is_file():
        return []
    with closing(sqlite3.connect(f"file:{quote(str(ledger.resolve()))}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) | {"day": _day(row["time"])} for row in database.execute(REQUESTS)]


def grouped(rows: Sequence[dict[str, Any]], by: str) -> list[Sum]:
    """Sums by a column, in the order of its values, those of keys in the order of their names."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"] if by == "key" else row[by], row[by]), []).append(row)
    return [summed(name, groups[name, id], id="" if id == name else id) for name, id in sorted(groups)]


def summed(name: str, rows: Sequence[dict[str, Any]], *, id: str = "") -> Sum:
    """The sums and medians of some requests."""
    firsts = [row["first_s"] for row in rows if row["first_s"] is not None]
    paces = [row["completion"] / row["latency_s"] for row in rows if row["latency_s"] and row["completion"]]
    totals = {key: sum(row[key] for row in rows) for key in ("prompt", "hit", "completion", "reasoning", "cancelled")}
    return Sum(
        name=name,
        requests=len(rows),
        cost=sum(row["cost"] for row in rows) / USD,
        first_s=_quantile(firsts, 0.5),
        slow_first_s=_quantile(firsts, 0.95),
        pace=_quantile(paces, 0.5),
        id=id,
        **totals,
    )


def course(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Panels over the hours, or minutes, in which anything was asked."""
    brief = bool(rows) and rows[-1]["time"] - rows[0]["time"] < BRIEF_S
    unit, name = (MINUTE, "minute") if brief else (HOUR, "hour")
    spans: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        spans.setdefault(int(row["time"] // unit) * unit, []).append(row)
    sums = {span: summed("", found) for span, found in sorted(spans.items())}
    panels = [
        _panel("Requests", f"In each {name}.", sums, {"requests": "requests", "cancelled": "cancelled"}),
        _panel(
            "Tokens",
            f"Generated in each {name}, and those of thoughts.",
            sums,
            {"completion": "tokens", "reasoning": "thought"},
        ),
        _panel("Time to first token", "Seconds.", sums, {"first_s": "median", "slow_first_s": "95th percentile"}),
        _panel("Cache", "The share of prompt tokens that was not computed again.", sums, {"hit_rate": "hit rate"}),
    ]
    return {"time": True, "last": 0, "generation": 0, "live": False, "marks": [], "panels": panels if sums else []}


def _panel(title: str, note: str, sums: dict[int, Sum], fields: dict[str, str]) -> dict[str, Any]:
    series = [
        {
            "name": field,
            "label": label,
            "right": False,
            "dots": len(sums) < 40,
            "x": list(sums),
            "y": [getattr(one, field) for one in sums.values()],
        }
        for field, label in fields.items()
    ]
    return {"id": title.lower().replace(" ", "-"), "title": title, "note": note, "series": series}


def _quantile(values: Sequence[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


def _day(time: float) -> str:
    return np.datetime_as_string(np.datetime64(int(time), "s"), unit="D")
