"""Whether the other ranks of a run still live: each says so every few seconds, and others miss it when it does not.

A rank that is stopped, or behind a network that is cut, closes no connection: whoever waits for it would wait for ever.
So each writes its pulse into the key-value store through which the ranks have met, from a thread of its own, with the
line at which it works. Rank 0 listens to all, the others to rank 0. Work of any length is no silence, so a stage on
which rank 0 works alone may take days.

A wait asks `missing()`. What waits elsewhere, such as FSDP's own collectives, cannot be called back; `watching` then
ends the process as a kill would, and the run continues from its last checkpoint.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Protocol

from pydantic import Field

from thinkery.config import Config
from thinkery.errors import RankLost

PACKAGE = str(Path(__file__).parents[1])
WAITING = ("ranks.py", "pulse.py", "meeting.py")
"""Files in which a rank waits; where it stands is who called them."""
GRACE_S = 15.0
"""How long a rank that misses another may take to come to a wait that says so."""


class Watchdog(Config):
    """How long the ranks of a run wait for each other."""

    start_s: float = Field(default=600.0, gt=0)
    """Seconds that the ranks may take to find each other when they start, and then to meet for the first time. The
    others end with exit code 75 and name those that have not come."""
    silence_s: float = Field(default=300.0, gt=0)
    """Seconds without a sign of life after which a rank counts as lost: a process that is stopped, a machine or a
    network that is gone. The others end with exit code 75. Long work is no silence."""
    behind_s: float = Field(default=6 * 3600.0, gt=0)
    """Seconds after which a rank that lives, but does not come to where the others wait in a stage of all ranks,
    counts as hung."""


class Store(Protocol):
    """What of a torch.distributed store is used here."""

    def set(self, key: str, value: str, /) -> object: ...

    def get(self, key: str, /) -> bytes: ...

    def check(self, keys: list[str], /) -> bool: ...


class Pulse:
    """This rank's pulse and those that it listens to, as seconds of silence.

    Silence is counted in ticks of a thread here and not read off a clock: a process that was itself held up, or a
    machine that slept, has not listened meanwhile, and blames nobody for it.
    """

    def __init__(self, store: Store, rank: int, count: int, cfg: Watchdog) -> None:
        self.store, self.rank, self.count, self.cfg = store, rank, count, cfg
        self.every_s = min(max(cfg.silence_s / 20, 0.05), 10.0)
        self.silence = dict.fromkeys(range(1, count) if rank == 0 else [0], 0.0)
        self.last = dict.fromkeys(self.silence, "")
        self.apart, self.met = 0.0, False
        """Seconds since the ranks have met, in blocks that all work on, and whether they ever have."""
        self.shared = 0
        """How many blocks this rank is in that all ranks work on."""
        self.ended = threading.Event()
        self.leave: Callable[[RankLost], None] = leave
        self.beat()

    def start(self) -> None:
        """Begin to listen; every rank has said something by then."""
        for work in (self.tell_and_listen, self.watch):
            threading.Thread(target=work, name=f"pulse {work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """The run is over."""
        self.ended.set()

    def beat(self) -> None:
        """Say that this rank lives, and where it is."""
        self.store.set(pulse_key(self.rank), f"{time.monotonic_ns()} {here()}")

    def tell_and_listen(self) -> None:
        """Speak, then hear the others, until the end; the store may hold this up for as long as it likes."""
        while not self.ended.wait(self.every_s):
            try:
                self.beat()
                for other in self.silence:
                    said = self.store.get(pulse_key(other)).decode()
                    if said != self.last[other]:
                        self.last[other], self.silence[other] = said, 0.0
            except RuntimeError:  # the store is gone, or does not answer: rank 0's silence will tell
                continue

    def watch(self) -> None:
        """Count silence; end this process where it waits for a lost rank in a way that nothing interrupts."""
        before, grace_s = time.monotonic(), 0.0
        while not self.ended.wait(self.every_s):
            before, passed = time.monotonic(), min(time.monotonic() - before, 2 * self.every_s)
            for other in self.silence:
                self.silence[other] += passed
            self.apart = self.apart + passed if self.shared else 0.0
            lost = self.missing() if self.shared else None
            grace_s = grace_s + passed if lost else 0.0
            if lost and grace_s > GRACE_S:
                self.leave(lost)
                return

    def meet(self) -> None:
        """The ranks have met."""
        self.apart, self.met = 0.0, True

    def missing(self) -> RankLost | None:
        """The error that names the ranks that are lost, None where all live."""
        silent = [rank for rank, seconds in self.silence.items() if seconds > self.cfg.silence_s]
        behind_s, behind = (self.cfg.behind_s, "behind_s") if self.met else (self.cfg.start_s, "start_s")
        if silent:
            names, limit = ", ".join(map(str, silent)), self.cfg.silence_s
            what, setting = f"rank {names} has given no sign of life for {limit:g} s", "watchdog.silence_s"
        elif self.apart > behind_s:
            what, setting = f"the ranks have not met for {behind_s:g} s", f"watchdog.{behind}"
        else:
            return None
        seen = [f"rank {rank} was last seen at {said.partition(' ')[2]}" for rank, said in self.last.items()]
        return RankLost(
            what,
            where=setting,
            found=f"{'; '.join(seen)}; rank {self.rank} is at {here()}",
            hint="look at its machine and log; the same command continues from the last checkpoint",
        )


def pulse_key(rank: int) -> str:
    """Where a rank's pulse is in the store."""
    return f"thinkery/pulse/{rank}"


def here() -> str:
    """The line of Thinkery at which the main thread works."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and (
        not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_filename.endswith(WAITING)
    ):
        frame = frame.f_back
    if frame is None:
        return "no line of Thinkery"
    return f"{os.path.relpath(frame.f_code.co_filename, PACKAGE)}:{frame.f_lineno} {frame.f_code.co_name}"


def leave(lost: RankLost) -> None:
    """End this process at once, as resumable; a checkpoint is whole or absent whenever that is."""
    print(f"error: {lost}", file=sys.stderr, flush=True)
    os._exit(lost.exit_code)
