"""Contenders take turns at the same work: one warms up, then each does its runs in alternating order."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
SILENCE_S = 1500.0
"""How long a start or a run may take."""
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""By which PyTorch puts large tensors into huge pages; `import thinkery` sets it, peers play with and without."""


@dataclass(frozen=True)
class Place:
    """What all contenders are given: prompts and model, threads, device."""

    material: Path
    threads: int
    device: str = "cpu"

    @property
    def arguments(self) -> list[str]:
        """As the worker reads them."""
        return [str(self.material), str(self.threads), f"device={self.device}"]


@dataclass(frozen=True)
class Entry:
    """Who plays, with which settings, in which environment."""

    name: str
    settings: tuple[str, ...] = ()
    python: str = sys.executable

    @property
    def title(self) -> str:
        """Name and settings in one line; of a path, its end, so that results say nothing of the machine's folders."""
        return " ".join((self.name, *(re.sub("=/.*/", "=", setting) for setting in self.settings)))


class Failed(RuntimeError):
    """Which contender failed, and why."""

    def __init__(self, entry: Entry, why: str) -> None:
        super().__init__(f"{entry.title}: {why}")


@dataclass
class Contender:
    """A running process and what it has answered."""

    entry: Entry
    process: subprocess.Popen[str]
    answers: list[dict[str, Any]] = field(default_factory=list)

    def hear(self) -> dict[str, Any]:
        """The next answer; raises Failed when it says that it failed, has ended, or says nothing for `SILENCE_S`."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], SILENCE_S)[0]:
            raise Failed(self.entry, f"nothing said for {SILENCE_S:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(self.entry, f"ended early, exit code {self.process.wait()}; its words are above")
        found = json.loads(line)
        if "failed" in found:
            raise Failed(self.entry, found["failed"])
        return found

    def run(self) -> None:
        """One run, timed by the contender itself."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # what has ended says why, or nothing
            self.process.stdin.write(f"{len(self.answers)}\n")
            self.process.stdin.flush()
        self.answers.append(self.hear())
        found = self.answers[-1]
        print(f"    {self.entry.title}: {found['seconds']:.2f} s, {found['tokens']} tokens, {found['peak_gb']:.2f} GB")

    @property
    def tokens_per_s(self) -> float:
        """Median over the runs."""
        return median(answer["tokens"] / answer["seconds"] for answer in self.answers)

    @property
    def seconds(self) -> float:
        """Median over the runs."""
        return median(answer["seconds"] for answer in self.answers)

    def report(self) -> dict[str, Any]:
        """What is kept of it."""
        found: dict[str, Any] = {
            "contender": self.entry.title,
            "runs": len(self.answers),
            "tokens_per_s": round(self.tokens_per_s, 2),
            "seconds": [round(answer["seconds"], 3) for answer in self.answers],
            "peak_gb": round(max(answer["peak_gb"] for answer in self.answers), 2),
        }
        kept = ("mismatch_kl",)
        return found | {key: self.answers[-1][key] for key in kept if key in self.answers[-1]}


Played = Contender | Failed


@contextmanager
def playing(entry: Entry, work: str, place: Place) -> Iterator[Contender]:
    """A contender that has warmed up."""
    command = [entry.python, "-m", "bench.peers.worker", entry.name, work, *place.arguments, *entry.settings]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(place.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
    }
    environment.pop(HUGE_PAGES, None)
    if "pages=huge" in entry.settings:
        environment[HUGE_PAGES] = "1"
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    try:
        contender = Contender(entry, process)
        contender.hear()
        yield contender
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if pipe:
                    pipe.close()


def best_of(entries: Sequence[Entry], work: str, place: Place) -> tuple[Entry, list[dict[str, Any]]]:
    """The fastest of a peer's settings by one run each, and what each took; those that fail are left out.

    Raises Failed where all fail.
    """
    if len(entries) == 1:
        return entries[0], []
    tried: list[Contender] = []
    failed: list[Failed] = []
    for entry in entries:
        try:
            with playing(entry, work, place) as contender:
                contender.run()
                tried.append(contender)
        except Failed as error:
            print(f"    {error}")
            failed.append(error)
    if not tried:
        raise failed[-1]
    fastest = max(tried, key=lambda contender: contender.tokens_per_s)
    return fastest.entry, [contender.report() for contender in tried]


def match(entries: Sequence[Entry], work: str, place: Place, repeats: int, patience_s: float) -> list[Played]:
    """All after their runs, `repeats` each; a slow one stops earlier, when its runs have taken `patience_s`, and one
    that fails leaves the others to go on."""
    found: list[Played] = []
    with ExitStack() as stack:
        for entry in entries:
            try:
                found.append(stack.enter_context(playing(entry, work, place)))
            except Failed as error:
                found.append(error)
        for number in range(repeats):
            for place_of in range(len(found))[:: 1 if number % 2 == 0 else -1]:
                contender = found[place_of]
                if isinstance(contender, Failed):
                    continue
                if sum(answer["seconds"] for answer in contender.answers) < patience_s:
                    try:
                        contender.run()
                    except Failed as error:
                        found[place_of] = error
    return found
