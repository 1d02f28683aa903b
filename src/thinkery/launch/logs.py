"""What ranks say, in the run directory: `logs/rank-N.txt` has errors and progress, `logs/rank-N.out.txt` the output.

    keep_log(directory, rank)      # what this process says is seen as before, and kept

`--procs` sends all but rank 0 to these files and nowhere else (`local.py`). Rank 0, and every rank that torchrun has
started, keeps what Python writes; what libraries write by themselves, as NCCL does, goes where torchrun sends it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from thinkery.pipeline.tee import Log, Tee


def errors_of(directory: Path, rank: int) -> Path:
    """The file of a rank's errors and progress."""
    return directory / "logs" / f"rank-{rank}.txt"


def output_of(directory: Path, rank: int) -> Path:
    """The file of a rank's output."""
    return directory / "logs" / f"rank-{rank}.out.txt"


def keep_log(directory: Path, rank: int) -> None:
    """Have what this process says from now on written to its files as well, unless it goes there already."""
    errors, output = errors_of(directory, rank), output_of(directory, rank)
    if errors.exists() and os.path.samestat(os.fstat(sys.stderr.fileno()), errors.stat()):
        return
    errors.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr, sys.stdout = Tee(sys.stderr, Log(errors)), Tee(sys.stdout, Log(output))
