"""The line that says how far the work is: a live bar on a terminal, one plain line per step elsewhere.

stage 2/6 reason  step 200/1000  cut 2%  reward 0.41 (+0.03)  acc 0.38  len 312  1.9 s/it  ETA 25m  all 1h10m

"all" is the time left of the whole run: the stage's own, and what was expected of the later ones, corrected by how
the expectations of this attempt's stages have turned out so far.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, TextIO

from thinkery.pipeline.tee import Log, Tee

Headline = Mapping[str, "float | str"]
WINDOW = 20  # steps over which the pace is averaged
QUIET_S = 1.0  # plain lines come no faster than this, the first and the last of a stage excepted


HEADLINE = {
    "cut": "completion/truncated",
    "reward": "reward/mean",
    "acc": "reward/accuracy/mean",
    "len": "completion/length_mean",
    "flat": "group/no_spread",
    "kl": "policy/kl",
    "ent": "policy/entropy",
}
"""The metrics of reinforcement learning that are worth a glance, those that matter first; the loss is none of them."""
SHARES = {"completion/truncated", "group/no_spread"}
"""Those of them that are said in per cent."""


def headline(metrics: Mapping[str, Any], names: Mapping[str, str] = HEADLINE) -> dict[str, float | str]:
    """The numbers that a row of metrics has, by their short `names`; shares are ready to be read, such as "2%"."""
    found = {short: name for short, name in names.items() if metrics.get(name) is not None}
    return {s: f"{metrics[name]:.0%}" if name in SHARES else metrics[name] for s, name in found.items()}


def number(value: float | str) -> str:
    """A number of a headline as the line shows it."""
    return value if isinstance(value, str) else f"{value:.3g}"


def open_progress(stream: TextIO | None = None, expected: Mapping[str, float] | None = None) -> Progress:
    """A live bar where the stream (stderr unless given) is a terminal, plain lines where it is not, and in its log.

    `expected` is how many seconds each stage will take, as far as that is known.
    """
    target: TextIO = stream or sys.stderr
    if not target.isatty():
        return Progress(target, expected)
    return Logged(target, expected) if isinstance(target, Tee) else Live(target, expected)


class Progress(AbstractContextManager):
    """Plain lines, one per step but at most one a second."""

    def __init__(
        self,
        stream: TextIO | Log,
        expected: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._clock = stream, clock
        self._outlook = Outlook(expected or {})
        self._begin("")

    def stage(self, name: str, number: int, count: int, later: Sequence[str] = ()) -> None:
        """The lines that follow are about stage `name`, `number` of `count`; `later` ones will run after it."""
        self._outlook.begin(name, later, self._clock())
        self._begin(f"stage {number}/{count} {name}")

    def update(self, done: int, total: int, headline: Headline) -> None:
        """Say how far the stage is; the first number that is no share carries its change since the last line."""
        now = self._clock()
        self._times.append((done, now))
        if self._too_soon(done, total, now):
            return
        first = next((value for value in headline.values() if not isinstance(value, str)), None)
        numbers, pace = self._described(headline), self._pace(done, total)
        self._last = first
        self._show(done, total, numbers, pace)

    def note(self, text: str) -> None:
        """Print a line between the others."""
        with suppress(OSError):  # nobody reads any more; the record has it all
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

    def _show(self, done: int, total: int, numbers: list[str], pace: list[str]) -> None:
        self.note("  ".join(part for part in (self._stage, f"step {done}/{total}", *numbers, *pace) if part))

    def _described(self, headline: Headline) -> list[str]:
        parts, before = [], self._last
        for name, value in headline.items():
            text = number(value)
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
        left = seconds * (total - done)
        whole = self._outlook.left(left, now)
        return [f"{seconds:.2g} s/it", f"ETA {duration(left)}"] + ([f"all {duration(whole)}"] if whole else [])


class Outlook:
    """How long a run will still take, from what was expected of its stages and how that turned out."""

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._expected = expected
        self._now, self._later = "", tuple[str, ...]()
        self._began = self._taken = self._meant = 0.0

    def begin(self, stage: str, later: Sequence[str], now: float) -> None:
        """A stage begins, and with it the one before has ended."""
        if self._now in self._expected:
            self._taken += now - self._began
            self._meant += self._expected[self._now]
        self._now, self._later, self._began = stage, tuple(later), now

    def left(self, of_stage: float, now: float) -> float | None:
        """Seconds until the run ends, `of_stage` seconds being left of this stage; None where nobody knows."""
        later = sum(self._expected.get(stage, 0.0) for stage in self._later)
        meant = self._meant + self._expected.get(self._now, 0.0)
        if not later or not meant:
            return None
        return of_stage + later * (self._taken + now - self._began + of_stage) / meant


class Live(Progress):
    """Three lines that stay at the foot of a terminal: the stage's bar, the run's, and the numbers worth a glance."""

    def __init__(self, stream: TextIO, expected: Mapping[str, float] | None = None) -> None:
        from rich.console import Console
        from rich.live import Live as Screen
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        super().__init__(stream, expected)
        name, text = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[text]}", markup=False)
        self._bars = Bars(name, BarColumn(bar_width=20), text, auto_refresh=False)
        self._of_stage = self._bars.add_task("", total=None, text="")
        self._of_run = self._bars.add_task("run", total=1, text="", visible=False)
        self._screen = Screen(self._bars, console=Console(file=stream), refresh_per_second=4, redirect_stdout=False)
        self._stages_before = 0

    def stage(self, name: str, number: int, count: int, later: Sequence[str] = ()) -> None:
        """Begin the bar anew."""
        super().stage(name, number, count, later)
        self._stages_before = number - 1
        self._bars.reset(self._of_stage, description=self._stage, total=None, text="")
        self._bars.update(self._of_run, completed=number - 1, total=count, visible=count > 1)
        self._screen.update(self._bars)
        self._screen.start()

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._screen.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._screen.stop()

    def _show(self, done: int, total: int, numbers: list[str], pace: list[str]) -> None:
        from rich.console import Group
        from rich.text import Text

        self._screen.start()
        of_run = [part for part in pace if part.startswith("all ")]
        of_stage = [f"{done}/{total}", *(part for part in pace if part not in of_run)]
        self._bars.update(self._of_stage, completed=done, total=total, text="  ".join(of_stage))
        part = self._stages_before + done / max(1, total)
        self._bars.update(self._of_run, completed=part, text="".join(of_run).replace("all", "ETA"))
        self._screen.update(Group(self._bars, Text("  ".join(numbers))))


class Logged(Live):
    """The bars of a terminal, and plain lines in the log of what it shows."""

    def __init__(self, stream: Tee, expected: Mapping[str, float] | None = None) -> None:
        super().__init__(stream.seen, expected)
        self._log, self._plain = stream.log, Progress(stream.log, expected)

    def stage(self, name: str, number: int, count: int, later: Sequence[str] = ()) -> None:
        """Begin the bar anew, and a line."""
        super().stage(name, number, count, later)
        self._plain.stage(name, number, count, later)
        self._keep_errors()

    def update(self, done: int, total: int, headline: Headline) -> None:
        """Show it and write it."""
        super().update(done, total, headline)
        self._plain.update(done, total, headline)
        self._keep_errors()

    def note(self, text: str) -> None:
        """Print a line above the bars, and in the log."""
        super().note(text)
        self._plain.note(text)

    def _keep_errors(self) -> None:
        """While there are bars, rich prints above them what others write to stderr; that is for the log, too."""
        if not isinstance(sys.stderr, Tee):
            sys.stderr = Tee(sys.stderr, self._log)


def duration(seconds: float) -> str:
    """A span for a person: 40s, 25m, 3h05m."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
