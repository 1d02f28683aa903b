"""A run in pure Python for tests that kill it:

    python toy.py RUN [--pause S] [--weight BYTES] [--deaf] [--limit BYTES] [--steps N] [--die N]

chain (a Report, from checkpoints) → rows (a Dataset, from its journal) → weights (a Model, from checkpoints).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.errors import ThinkeryError
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.build import build
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import Step, step


class Toy(Config):
    """How much there is to do, and how slowly."""

    steps: int = 60
    every: int = 7
    weight: int = 0
    pause_s: float = Field(default=0.004, json_schema_extra={"key": False})
    deaf: bool = Field(default=False, json_schema_extra={"key": False})
    die: int = Field(default=0, json_schema_extra={"key": False})
    """Kill this process after so many numbers; 0 never."""


def advance(run: Run, cfg: Toy, state: bytes) -> bytes:
    """A hash chain with metrics, rollouts and checkpoints; continues from the latest one."""
    first = 0
    if latest := run.latest():
        first, state = latest[0], (latest[1] / "state").read_bytes()[:32]
    for number in range(first + 1, cfg.steps + 1):
        state = hashlib.sha256(state).digest()
        run.metrics(number, {"reward/mean": state[0] / 255})
        run.rollouts(number, [group(number, state)], [[0.5]])
        run.event("stepped", number=number)
        if number - first == cfg.die:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(cfg.pause_s)
        stop = run.stopping and not cfg.deaf
        if number % cfg.every == 0 or stop:
            run.checkpoint(
                number, lambda folder, s=state: (folder / "state").write_bytes(s + bytes(cfg.weight)) and None
            )
        if stop:
            run.stop()
        run.progress(number, cfg.steps, reward=state[0] / 255)
    return state


def group(number: int, state: bytes) -> Group:
    """One judged attempt."""
    task = Task(f"t{number}", f"What is {number}?", "exact", gold=str(number), language="en")
    completion = Completion(
        f"<think>{state.hex()}</think>{number}", tokens=(1, 2), thought=state.hex(), answer=str(number)
    )
    scores = {"accuracy": Score(1.0, "equal"), "format": Score(None, "no rule")}
    return Group(task, (Rollout(task, (7,), completion, scores, reward=None),))


def chain(run: Run, cfg: Toy) -> Report:
    """The first stage."""
    return run.save_report({"digest": advance(run, cfg, str(run.seed).encode()).hex()})


def rows(run: Run, cfg: Toy, start: Report) -> Dataset:
    """The second: one row for two of three numbers; the order in which they come differs from attempt to attempt."""
    writer = run.dataset()
    left = [n for n in range(cfg.steps) if f"{n:04d}" not in writer.keys]
    for number in reversed(left) if len(left) % 2 else left:
        writer.count("made")
        if number % 3 == 0:
            writer.count("wrong")
            writer.skip(f"{number:04d}")
        else:
            writer.add({"number": number, "digest": start.data["digest"]}, key=f"{number:04d}")
        time.sleep(cfg.pause_s)
    return writer.finish(note="toy")


def weights(run: Run, cfg: Toy, corpus: Dataset) -> Model:
    """The third."""
    state = advance(run, cfg, json.dumps(list(corpus.rows())).encode())
    return run.save_model(lambda folder: (folder / "weights").write_bytes(state * 100))


def steps(cfg: Toy) -> dict[str, Step]:
    """The graph."""
    first = step("chain", chain, cfg)
    second = step("rows", rows, cfg, start=first)
    return {"chain": first, "rows": second, "weights": step("weights", weights, cfg, corpus=second)}


def main() -> int:
    """Run it; exit codes as on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--pause", type=float, default=0.004)
    parser.add_argument("--weight", type=int, default=0)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--die", type=int, default=0)
    parser.add_argument("--deaf", action="store_true")
    args = parser.parse_args()
    if args.limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.limit, args.limit))
    print("ready", flush=True)
    try:
        cfg = Toy(steps=args.steps, pause_s=args.pause, weight=args.weight, deaf=args.deaf, die=args.die)
        build(steps(cfg), args.run, seed=3)
    except ThinkeryError as error:
        print(type(error).__name__, error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
