"""The line that says how far the work is: a live bar on a terminal, one plain line per step elsewhere.

stage 2/6 reason  step 200/1000  reward 0.41 (+0.03)  acc 0.38  cut 2%  len 312  1.9 s/it  ETA 25m
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

Headline = Mapping[str, "float | str"]
WINDOW = 20  # steps over which the pace is averaged
QUIET_S = 1.0  # plain lines come no faster than this, the first and the last of a stage excepted


def open_progress(stream: TextIO | None = None) -> Progress:
    """A live bar where the stream (stderr unless given) is a terminal, plain lines where it is not."""
    target: TextIO = stream or sys.stderr
    return Live(target) if target.isatty() else Progress(target)


class Progress(AbstractContextManager):
    """Plain lines, one per step but at most one a second."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._stage = ""
        self._begin("")

    def stage(self, name: str, number: int, count: int) -> None:
        """The lines that follow are about stage `name`, `number` of `count`."""
        self._begin(f"stage {number}/{count} {name}")

    def update(self, done: int, total: int, headline: Headline) -> None:
        """Say how far the stage is; the first number of the headline carries its change since the last line."""
        now = self._clock()
        self._times.append((done, now))
        if self._too_soon(done, total, now):
            return
        first = next((value for value in headline.values() if not isinstance(value, str)), None)
        parts = [f"step {done}/{total}", *self._described(headline), *self._pace(done, total)]
        self._last = first
        self._show(done, total, parts)

    def note(self, text: str) -> None:
        """Print a line between the others."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""

    def __exit__(self, *_: object) -> None:
        self.close()

    def _too_soon(self, done: int, total: int, now: float) -> bool:
        """Whether this line would follow the last one too closely; remembers when lines were shown."""
        if done < total and self._shown is not None and now - self._shown < QUIET_S:
            return True
        self._shown = now
        return False

    def _begin(self, stage: str) -> None:
        self._stage = stage
        self._shown: float | None = None
        self._times: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._last: float | None = None

    def _show(self, done: int, total: int, parts: list[str]) -> None:
        self.note("  ".join([self._stage, *parts] if self._stage else parts))

    def _described(self, headline: Headline) -> list[str]:
        parts, before = [], self._last
        for name, value in headline.items():
            text = value if isinstance(value, str) else f"{value:.3g}"
            if before is not None and not isinstance(value, str):
                text += f" ({value - before:+.2g})"
                before = None
            parts.append(f"{name} {text}")
        return parts

    def _pace(self, done: int, total: int) -> list[str]:
        (first, began), (last, now) = self._times[0], self._times[-1]
        if last <= first:
            return []
        seconds = (now - began) / (last - first)
        return [f"{seconds:.2g} s/it", f"ETA {duration(seconds * (total - done))}"]


class Live(Progress):
    """A bar that stays on the terminal's last line."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        super().__init__(stream)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[text]}"))
        self._bar: Any = Bar(*columns, console=Console(file=stream))
        self._task: Any = None

    def stage(self, name: str, number: int, count: int) -> None:
        """Begin a new bar under the finished one."""
        super().stage(name, number, count)
        self._task = self._bar.add_task(self._stage, total=None, text="")
        self._bar.start()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def _show(self, done: int, total: int, parts: list[str]) -> None:
        if self._task is None:
            self.stage("", 1, 1)
        self._bar.update(self._task, completed=done, total=total, text="  ".join(parts))


def duration(seconds: float) -> str:
    """A span for a person: 40s, 25m, 3h05m."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
