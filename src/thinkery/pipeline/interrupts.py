"""Ctrl-C and SIGTERM: the first asks to stop after a checkpoint, the second aborts."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

from thinkery.pipeline.run import Run

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it is open, the first signal sets `stopping` here and on the `watch`ed run; the next is KeyboardInterrupt.

    Limit: signals reach only the main thread, so elsewhere it does nothing.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._run: Run | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._first) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def watch(self, run: Run) -> None:
        """The run to tell from now on."""
        self._run = run
        run.stopping = self.stopping

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        if self._run:
            self._run.stopping = True
        for again in SIGNALS:
            signal.signal(again, signal.default_int_handler)
        with suppress(OSError):  # who read it, such as `tee`, has had the same Ctrl-C
            os.write(2, b"\nstopping after this step and a checkpoint; once more to abort\n")
