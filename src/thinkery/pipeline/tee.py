"""Streams whose words are seen and also kept: the terminal of rank 0, and its log."""

from __future__ import annotations

from contextlib import suppress
from io import TextIOBase
from pathlib import Path
from typing import TextIO


class Log(TextIOBase):
    """A file, line by line behind what it has; where it cannot be written any more, nobody else fails for that."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()
        super().close()


class Tee(TextIOBase):
    """Writes to `seen`, which it is like in all else, and to `log`."""

    def __init__(self, seen: TextIO, log: Log) -> None:
        self.seen, self.log = seen, log

    def write(self, text: str) -> int:
        """Write to both."""
        self.log.write(text)
        return self.seen.write(text)

    def flush(self) -> None:
        """Flush what is seen."""
        self.seen.flush()

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return self.seen.isatty()

    def fileno(self) -> int:
        """The file descriptor of what is seen."""
        return self.seen.fileno()

    @property
    def encoding(self) -> str:
        """Of what is seen."""
        return self.seen.encoding
