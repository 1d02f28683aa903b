"""Hands a run's record on while it grows: metrics to the sinks, alarms to the hooks; what fails is recorded, once.

broadcast = Broadcast(cfg.sinks, cfg.alerts, dir)
build(steps, dir, follow=broadcast.follow, on_event=broadcast.event)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thinkery.pipeline.record import Events
from thinkery.pipeline.run import Run
from thinkery.sinks.feed import Feed
from thinkery.sinks.hooks import Alerts, Hooks
from thinkery.sinks.trackers import Sinks

LAST = ("done", "failed")
"""Events that end an attempt."""


class Broadcast:
    """Listens to the run in `dir`, in the thread that works on it; waits for nothing but at the end of a step."""

    def __init__(
        self, sinks: Sinks, alerts: Alerts, dir: Path, listen: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self._sinks, self._hooks, self._dir = sinks, Hooks(alerts), dir
        self._listen = listen
        """Gets the events that are recorded here."""

    @contextmanager
    def follow(self, run: Run) -> Iterator[Callable[[Mapping[str, Any]], None] | None]:
        """A function that takes a step's rows of metrics while it runs; None where no sink wants them."""
        feeds: list[Feed] = []

        def send(row: Mapping[str, Any]) -> None:
            rows = [row]
            if not feeds:
                feeds.extend(Feed(name, run, self._sinks) for name in self._sinks.to)
                rows = run.curves()  # also those that no sink was there for, or could take
            for feed in feeds:
                feed.put(rows)
            _tell_of_failed(run, feeds)

        try:
            yield send if self._sinks.to else None
        finally:
            for feed in feeds:
                feed.close()
            _tell_of_failed(run, feeds)

    def event(self, row: Mapping[str, Any]) -> None:
        """Pass an alarm on, and record the hooks that failed with an earlier one."""
        if row["kind"] == "alarm":
            self._hooks.ring(row)
        events = Events(self._dir / "events.jsonl", row["attempt"], self._listen)
        for failure in self._hooks.failures(wait=row["kind"] in LAST):
            events.add("hook-failed", row["step"], row["key"], **failure)


def _tell_of_failed(run: Run, feeds: list[Feed]) -> None:
    """An alarm for each sink that has failed since it was last asked."""
    for feed in feeds:
        if problem := feed.failure():
            run.alarm("sink", f"{feed.name} gets no more curves: {problem}", "sinks.to")
