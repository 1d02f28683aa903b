"""What is run in a sandbox and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Language = Literal["python", "cpp"]
Verdict = Literal["pass", "wrong", "error", "timeout"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. Memory counts once per process as address space and once for all as resident pages."""

    cpu_s: float = 5.0
    wall_s: float = 10.0
    memory_mb: int = 512
    processes: int = 16
    file_mb: int = 16
    files: int = 1000
    output_kb: int = 4096


@dataclass(frozen=True, slots=True)
class Program:
    """A program: its source, and the files it may import or read, by their paths relative to its folder."""

    source: str = ""
    language: Language = "python"
    stdin: str = ""
    limits: Limits = Limits()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: "pass" (by itself, with exit code 0), "error" or "timeout", and what it wrote and used.

    `exit_code` is minus the signal where one ended it. `detail` says why it is no pass. `memory_mb` is the peak of
    its largest process.
    """

    verdict: Verdict
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    memory_mb: float = 0.0
    detail: str = ""
