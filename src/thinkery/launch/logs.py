"""What ranks say, in the run directory: `logs/rank-N.txt` has errors and progress, `logs/rank-N.out.txt` the output.

    keep_log(directory, rank)      # what this process says is seen as before, and kept

Every attempt begins with a line of its own behind what earlier ones have said, so what ended them can still be read.
`--procs` sends all but rank 0 to these files and nowhere else (`local.py`). Rank 0, and every rank that torchrun has
started, keeps what Python writes; what libraries write by themselves, as NCCL does, goes where torchrun sends it.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path

from thinkery.pipeline.files import read_json
from thinkery.pipeline.tee import Log, Tee

BEGINS = "--- attempt "
"""What the line before everything that an attempt says begins with."""


def errors_of(directory: Path, rank: int) -> Path:
    """The file of a rank's errors and progress."""
    return directory / "logs" / f"rank-{rank}.txt"


def output_of(directory: Path, rank: int) -> Path:
    """The file of a rank's output."""
    return directory / "logs" / f"rank-{rank}.out.txt"


def begin_log(directory: Path, rank: int) -> None:
    """Write the line that begins this attempt into a rank's files."""
    errors_of(directory, rank).parent.mkdir(parents=True, exist_ok=True)
    for path in (errors_of(directory, rank), output_of(directory, rank)):
        with Log(path) as log:
            log.write(f"{BEGINS}{attempt_of(directory)}, {datetime.now():%Y-%m-%d %H:%M:%S} ---\n")


def attempt_of(directory: Path) -> int:
    """The number of the attempt that is about to begin."""
    run = directory / "run.json"
    return 1 + (len(read_json(run)["attempts"]) if run.exists() else 0)


def keep_log(directory: Path, rank: int) -> None:
    """Have what this process says from now on written to its files as well, unless it goes there already."""
    errors, output = errors_of(directory, rank), output_of(directory, rank)
    if errors.exists() and os.path.samestat(os.fstat(sys.stderr.fileno()), errors.stat()):
        return
    begin_log(directory, rank)
    sys.stderr, sys.stdout = Tee(sys.stderr, Log(errors)), Tee(sys.stdout, Log(output))


def last_words(log: Path) -> str:
    """What a rank said of its error in its last attempt."""
    said = f"\n{log.read_text(errors='replace')}".rpartition(f"\n{BEGINS}")[2].splitlines()[1:]
    return next((line for line in reversed(said) if line.startswith("error: ")), said[-1] if said else "")
