"""Making a dataset row by row, so that a killed step continues with what it has not done yet.

Rows go to a journal at once. `finish` sorts them by key into shards, of JSON lines or as Parquet: the bytes do not
depend on the order in which the rows came, nor on how often the step was killed. What was left out is counted, by
reason and by source, and the first few examples of each reason are kept in `dropped.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from thinkery.pipeline.artifact import DROPPED, Dataset
from thinkery.pipeline.files import append_row, length_of, row_bytes, write_file, zipped

Shards = Literal["jsonl", "parquet"]
Rows = Iterator[dict[str, Any]]
SHARD_ROWS = 10_000
EXAMPLES = 12
"""Examples kept of each reason."""


class DatasetWriter:
    """Append-only and resumable; made by `Run.dataset`, one to a step.

    Counts belong to the next `add` or `skip` and are kept or lost together with it; so work that a killed step does
    again is not counted again. End a unit of work that leaves no row with `skip(key)`.
    """

    def __init__(
        self,
        journal: Path,
        seal: Callable[[Callable[[Path], None], dict[str, Any]], Dataset],
        shards: Shards = "jsonl",
    ) -> None:
        self._journal, self._seal, self._kind = journal, seal, SHARDS[shards]()
        self._offsets: dict[str, int] = {}
        self._fresh: set[str] = set()
        self._pending = Tally()
        self._total = Tally()
        self._end = 0
        self.keys: set[str] = set()
        """Everything added or skipped so far, also before a kill."""
        self._reopen()

    @property
    def funnel(self) -> dict[str, int]:
        """The counts so far, by reason."""
        return self._total.counts

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, row: dict[str, Any], key: str) -> None:
        """Write a row; a key from before a kill is passed over with its counts, one used twice now is a ValueError."""
        if key in self._fresh:
            raise ValueError(f"two rows have the key {key!r}")
        self._fresh.add(key)
        self._write({"key": key, "row": row})

    def skip(self, key: str) -> None:
        """Note that the work named `key` is done and leaves no row of that key."""
        self._fresh.add(key)
        self._write({"key": key})

    def count(self, reason: str, n: int = 1, *, source: str = "", example: dict[str, Any] | None = None) -> None:
        """Count `n` under a reason, with the next `add` or `skip`; `example` is what was left out for that reason."""
        self._pending.count(reason, n, source)
        if example is not None and self._total.has_room(reason) and self._pending.has_room(reason):
            self._pending.examples.setdefault(reason, []).append(example)

    def count_now(self, reason: str, n: int, key: str) -> None:
        """Count at once and apart from any row: what was spent stays spent, whatever becomes of the work."""
        tally = Tally()
        tally.count(reason, n)
        self._append({"key": key} | tally.entry())

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row so far with its key, in the order of the keys."""
        keys = sorted(self._offsets)
        return zip(keys, self._rows(keys), strict=True)

    def drop(self, key: str, reason: str) -> None:
        """Leave a row out after all, counted under a reason: for choices that need the whole, just before `finish`.

        A step that is killed afterwards forgets it, and chooses again.
        """
        del self._offsets[key]
        self.count(reason)

    def finish(self, **meta: Any) -> Dataset:
        """Sort the rows by key into gzipped shards and return the dataset; `meta` is kept in its manifest."""
        self._total.merge(self._pending.entry())
        self._pending = Tally()
        if self._total.examples:
            dropped = [{"reason": r, "row": row} for r, rows in self._total.examples.items() for row in rows[:EXAMPLES]]
            write_file(self._journal.with_name(DROPPED), b"".join(map(row_bytes, dropped)))
        counted = {"funnel": self.funnel, "funnel_by_source": self._total.by_source}
        return self._seal(self._write_shards, {"rows": len(self), **counted, "meta": meta})

    def _write(self, entry: dict[str, Any]) -> None:
        pending, self._pending = self._pending, Tally()
        if entry["key"] in self.keys:
            return
        self._append(entry | pending.entry())

    def _append(self, entry: dict[str, Any]) -> None:
        append_row(self._journal, entry)
        self._remember(entry, self._end)
        self._end = length_of(self._journal)

    def _reopen(self) -> None:
        if not self._journal.exists():
            return
        with open(self._journal, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._remember(json.loads(line), self._end)
                self._end += len(line)

    def _remember(self, entry: dict[str, Any], offset: int) -> None:
        self.keys.add(entry["key"])
        self._total.merge(entry)
        if "row" in entry:
            self._offsets[entry["key"]] = offset

    def _write_shards(self, folder: Path) -> None:
        keys = sorted(self._offsets)
        encode = self._kind.encoder(lambda: self._rows(keys))
        for number, start in enumerate(range(0, len(keys), SHARD_ROWS)):
            rows = self._rows(keys[start : start + SHARD_ROWS])
            write_file(folder / f"{number:05d}{self._kind.suffix}", encode(rows), sync=False)

    def _rows(self, keys: list[str]) -> Iterator[dict[str, Any]]:
        with open(self._journal, "rb") as file:
            for key in keys:
                file.seek(self._offsets[key])
                yield json.loads(file.readline())["row"]


class JsonShards:
    """Gzipped JSON lines."""

    suffix = ".jsonl.gz"

    def encoder(self, every: Callable[[], Rows]) -> Callable[[Rows], bytes]:
        """What makes a shard of some of the rows."""
        return partial(zipped, level=6)


class ParquetShards:
    """Parquet with one schema for all (`parquet.py`); EnvironmentLacks at once where pyarrow is not installed."""

    suffix = ".parquet"

    def __init__(self) -> None:
        from thinkery.pipeline import parquet  # which takes a third of a second, and is an extra

        self._parquet = parquet

    def encoder(self, every: Callable[[], Rows]) -> Callable[[Rows], bytes]:
        """What makes a shard of some of the rows, once all have been looked at."""
        return partial(self._parquet.shard, schema=self._parquet.schema_of(every()))


SHARDS: dict[str, type[JsonShards | ParquetShards]] = {"jsonl": JsonShards, "parquet": ParquetShards}


@dataclass
class Tally:
    """What was counted: by reason, by source and reason, and examples by reason."""

    counts: dict[str, int] = field(default_factory=dict)
    by_source: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def count(self, reason: str, n: int, source: str = "") -> None:
        """Count `n` under a reason, and under its source where that is known."""
        self.counts[reason] = self.counts.get(reason, 0) + n
        if source:
            own = self.by_source.setdefault(source, {})
            own[reason] = own.get(reason, 0) + n

    def has_room(self, reason: str) -> bool:
        """Whether another example of a reason would be kept."""
        return len(self.examples.get(reason, ())) < EXAMPLES

    def entry(self) -> dict[str, Any]:
        """The fields of a journal's entry, those that are not empty."""
        fields = {"counts": self.counts, "by_source": self.by_source, "examples": self.examples}
        return {name: value for name, value in fields.items() if value}

    def merge(self, entry: Mapping[str, Any]) -> None:
        """Add what an entry of the journal counted."""
        for reason, n in entry.get("counts", {}).items():
            self.counts[reason] = self.counts.get(reason, 0) + n
        for source, counts in entry.get("by_source", {}).items():
            own = self.by_source.setdefault(source, {})
            for reason, n in counts.items():
                own[reason] = own.get(reason, 0) + n
        for reason, rows in entry.get("examples", {}).items():
            self.examples.setdefault(reason, []).extend(rows)
