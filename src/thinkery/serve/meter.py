"""How far every answer has come, in a file that outlives the server.

The file is mapped into memory: writing a count costs nothing, and what was written is there after `kill -9`, because
the pages belong to the operating system. (A power cut may lose them.) One server at a time has it.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from thinkery.errors import Busy
from thinkery.serve.jobs import News

SLOT = struct.Struct("<4Q")
"""Whether it began, prompt tokens reused, tokens generated, those of the thought."""


class Meter:
    """One slot for every answer under way."""

    def __init__(self, path: Path, slots: int) -> None:
        self.file = open(path, "a+b")  # noqa: SIM115  (it stays open as long as the meter)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise Busy("another server writes this ledger", where=str(path), hint="stop it, or use --ledger") from None
        self.file.seek(0)
        data = self.file.read()
        self.left = readings(data)
        """What the server before this one had counted."""
        self.file.truncate(max(len(data), slots * SLOT.size))
        self.memory = mmap.mmap(self.file.fileno(), slots * SLOT.size)
        self.free = list(range(slots))
        self.slots: dict[str, int] = {}

    def take(self, job: str) -> int:
        """A slot for an answer, at zero."""
        slot = self.slots[job] = self.free.pop()
        SLOT.pack_into(self.memory, slot * SLOT.size, 0, 0, 0, 0)
        return slot

    def note(self, news: Sequence[News]) -> None:
        """Count what has come; called before anybody is told."""
        for one in news:
            slot = self.slots.get(one.job)
            if slot is not None and not one.problem:
                SLOT.pack_into(self.memory, slot * SLOT.size, one.begun, one.hit, one.tokens, one.reasoning)

    def give_back(self, job: str) -> None:
        """The answer has been charged."""
        self.free.append(self.slots.pop(job))

    def close(self) -> None:
        """Let the next server have it."""
        self.memory.close()
        self.file.close()


def readings(data: bytes) -> Mapping[int, Sequence[int]]:
    """By slot."""
    whole = len(data) // SLOT.size * SLOT.size
    return dict(enumerate(SLOT.iter_unpack(data[:whole])))
