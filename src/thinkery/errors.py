"""Every error Thinkery raises on purpose; each says what, where, found, and what to try.

ThinkeryError                 exit code
├── UsageError                2    the command line or a recipe is wrong
│   ├── ConfigError                a key or a value of a recipe
│   └── WiringError                a graph whose steps do not fit together
├── GateFailed                3    a quality gate or a gated claim does not hold
├── InputError                4    a file, dataset or model that is missing or unusable
│   └── HashMismatch               bytes on disk are not the bytes that were written
├── EnvironmentLacks          5    a package, program or permission is missing
├── RunFailed                 1    the work itself failed
│   ├── NotFinite                  NaN or infinity in a loss or a gradient
│   ├── Ungradable                 too many samples could not be judged
│   ├── DiskFull                   no room left; nothing already written is lost; 75 after a checkpoint
│   ├── Stalled               75   a wait outlasted its watchdog; resumable
│   └── RankLost              75   another process of the run is gone; resumable
├── Busy                      1    another process works on the same run directory
└── Stopped                   75   stopped on request, and resumable
"""

from __future__ import annotations


class ThinkeryError(Exception):
    """An error with a remedy: `what` happened, `where`, what was `found`, what to `hint` at trying."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", found: str = "", hint: str = "") -> None:
        self.what, self.where, self.found, self.hint = what, where, found, hint
        text = f"{where}: {what}" if where else what
        if found:
            text += f" (found {found})"
        if hint:
            text += f"\n  try: {hint}"
        super().__init__(text)


class UsageError(ThinkeryError):
    """The command line or a recipe is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A key or a value of a recipe is wrong; several problems are listed in one error."""


class WiringError(UsageError):
    """A graph whose steps do not fit together."""


class GateFailed(ThinkeryError):
    """A quality gate or a gated claim does not hold."""

    exit_code = 3


class InputError(ThinkeryError):
    """A file, dataset or model is missing or unusable."""

    exit_code = 4


class HashMismatch(InputError):
    """Bytes on disk are not the bytes that were written."""


class EnvironmentLacks(ThinkeryError):
    """A package, a program or a permission is missing; the hint is the command that brings it."""

    exit_code = 5


class RunFailed(ThinkeryError):
    """The work itself failed."""


class NotFinite(RunFailed):
    """A loss or a gradient is NaN or infinite."""


class Ungradable(RunFailed):
    """Too many samples could not be judged for the rewards to mean anything."""


class Stalled(RunFailed):
    """A wait outlasted its watchdog; the message names what is missing. The same command continues."""

    exit_code = 75


class DiskFull(RunFailed):
    """No room left on the device; what was already written is intact.

    `resumable` where this attempt had come to a checkpoint: a job queue may try again, and stops when that is in vain.
    """

    def resumable(self) -> DiskFull:
        """The same error with exit code 75."""
        self.exit_code = Stopped.exit_code
        return self


class RankLost(RunFailed):
    """Another process of the same run is gone; the same command continues from the last checkpoint."""

    exit_code = 75


class Busy(ThinkeryError):
    """Another process works on the same run directory."""


class Stopped(ThinkeryError):
    """Stopped on request after a checkpoint; the same command continues."""

    exit_code = 75
