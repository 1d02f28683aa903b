"""What keeping the record costs: the share of `zero` of the demo that is spent on writing metrics, samples and events.

    python -m bench.record --updates 20      →  bench/results/record.json

The share of processor time is what counts: other work on the machine does not change it. Waiting for the disk is in
the share of wall time. Saving weights is not the record's.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

from bench.recipe import machine, write
from thinkery import __version__
from thinkery.cli.recipe import open_recipe
from thinkery.pipeline.build import build
from thinkery.pipeline.record import Events, Record
from thinkery.pipeline.run import Run

TIMED = ((Record, "metrics"), (Record, "rollouts"), (Record, "marks"), (Events, "add"), (Run, "progress"))

Seconds = dict[str, list[float]]
"""[wall, processor] by what was done."""


def main() -> None:
    """Run the demo up to zero, all writing timed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=20)
    updates = parser.parse_args().updates
    spent: Seconds = defaultdict(lambda: [0.0, 0.0])
    steps = open_recipe(["tiny"], [f"zero.grpo.updates={updates}"]).graph()
    with tempfile.TemporaryDirectory() as folder:
        build(steps, Path(folder), until="problems")
        for kind, name in TIMED:
            setattr(kind, name, timed(getattr(kind, name), spent[f"{kind.__name__}.{name}"]))
        wall, processor = time.perf_counter(), time.process_time()
        made = build(steps, Path(folder), only=["zero"])
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        kept = [path for path in made["zero"].folder.parent.rglob("*.jsonl*") if path.is_file()]
        size = sum(path.stat().st_size for path in kept)
    write("record", {
        "date": date.today().isoformat(),
        "machine": machine(),
        "version": __version__,
        "updates": updates,
        "wall_s": round(wall, 1),
        "processor_s": round(processor, 1),
        "share_of_wall": round(sum(wall_s for wall_s, _ in spent.values()) / wall, 5),
        "share_of_processor": round(sum(processor_s for _, processor_s in spent.values()) / processor, 5),
        "bytes_per_update": round(size / updates),
        "seconds": {name: {"wall": round(a, 3), "processor": round(b, 3)} for name, (a, b) in spent.items()},
    })  # fmt: skip


def timed(function: Any, spent: list[float]) -> Any:
    """The function, adding what it takes to `spent`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        wall, processor = time.perf_counter(), time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - wall
            spent[1] += time.thread_time() - processor

    return wrapper


if __name__ == "__main__":
    main()
