"""One contender in a process of its own: `python -m bench.peers.worker CONTENDER WORK MATERIAL THREADS [key=value …]`.

It loads, warms up, says so, and then does one run for each line it reads. Every answer is one line of JSON with
seconds, tokens and the peak memory of the process, on a GPU what its tensors took there; or it says why it failed.
Whatever else a library prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from bench.peers.work import WORKS, Material, Work

Once = Callable[[int], dict[str, Any]]
"""One run, given its number; returns what it wants to report beside the time."""


class Turns:
    """The other end: says when to begin, and hears what came of it."""

    def __init__(self, answers: TextIO, device: str = "cpu") -> None:
        self.answers, self.device = answers, device

    def __iter__(self) -> Iterator[int]:
        """Numbers of the runs that are asked for, until nothing more is."""
        self.say(ready=True)
        for line in sys.stdin:
            yield int(line)

    def say(self, **found: Any) -> None:
        """One line."""
        self.answers.write(json.dumps(found) + "\n")
        self.answers.flush()

    def done(self, seconds: float, **found: Any) -> None:
        """The result of one run."""
        self.say(seconds=seconds, peak_gb=peak_bytes(self.device) / 1e9, **found)

    def now(self) -> float:
        """Seconds on a clock, once a GPU has done all that it was given."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, once: Once) -> None:
        """Do every run that is asked for."""
        for number in self:
            began = self.now()
            found = once(number)
            self.done(self.now() - began, **found)


def told(work: Work, texts: list[list[int]]) -> dict[str, Any]:
    """What is reported of new tokens: how many, and which they are where the work is to say the likeliest."""
    return {"tokens": sum(map(len, texts))} | ({"texts": texts} if work.kind == "greedy" else {})


def peak_bytes(device: str = "cpu") -> float:
    """The most memory that this process has held; on a GPU, the most that its tensors have taken there."""
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    """Play one contender."""
    name, work, material, threads, *settings = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options = dict(setting.split("=", 1) for setting in settings)
    turns = Turns(answers, options.get("device", "cpu"))
    play: Callable[[Turns, Work, Material, int, dict[str, str]], None]
    try:
        play = importlib.import_module(f"bench.peers.{name}").play
        play(turns, WORKS[work], Material.load(Path(material)), int(threads), options)
    except Exception as error:
        turns.say(failed=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
