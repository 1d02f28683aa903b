"""A run of one step in pure Python with all four sinks, for tests that kill it: python sunk.py RUN DIE_AT."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from thinkery.pipeline.artifact import Report
from thinkery.pipeline.build import build
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step
from thinkery.sinks import Alerts, Broadcast, Sinks

UPDATES = 12
TO = ("tensorboard", "trackio", "wandb", "mlflow")


def climb(run: Run) -> Report:
    """A reward that rises; a checkpoint every five updates; it dies where it is told."""
    latest = run.latest()
    for update in range(latest[0] + 1 if latest else 1, UPDATES + 1):
        run.metrics(update, {"reward/mean": update / 10, "optim/loss": float("nan") if update == 3 else 0.5})
        if update % 4 == 0:
            run.metrics(update, {"eval/exam/pass@1": update / 20})
        if update % 5 == 0:
            run.checkpoint(update, lambda folder: (folder / "state").write_text("x"))
        if update == int(sys.argv[2]):
            wait_for_sinks(run.dir / "sinks", update)
            os.kill(os.getpid(), signal.SIGKILL)
    return run.save_report({})


def wait_for_sinks(folder: Path, update: int) -> None:
    """Until every sink has taken this update; Trackio passes it on within half a second more."""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        states = [folder / f"{name}.json" for name in TO]
        sent = [json.loads(path.read_bytes())["sent"] for path in states if path.exists()]
        if [one["reward/mean"] for one in sent] == [update] * len(TO):
            break
        time.sleep(0.1)
    time.sleep(2)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    broadcast = Broadcast(Sinks(to=TO, project="proof"), Alerts(), folder)
    build({"climb": step("climb", climb)}, folder, follow=broadcast.follow, on_event=broadcast.event)
