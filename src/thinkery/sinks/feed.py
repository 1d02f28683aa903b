"""One tracker's share of a run: a thread that sends it what it has not had, and remembers how far every curve is."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from thinkery.pipeline.files import read_state, write_file
from thinkery.pipeline.run import SINKS as STATE
from thinkery.pipeline.run import Run
from thinkery.sinks.trackers import SINKS, Execution, Name, Sinks

PATIENCE_S = 60.0
"""How long the end of a step waits for a sink to take what is left."""

Row = Mapping[str, Any]


class Feed:
    """Sends rows of metrics to one sink, in a thread of its own: neither its pace nor its failure touches the run.

    What was sent is kept in the step's folder, by curve. Rows that a resumed step makes again are therefore not sent
    again, and rows that an earlier attempt could not send are.
    """

    def __init__(self, name: Name, run: Run, cfg: Sinks) -> None:
        self.name: Name = name
        self._problem = ""
        self._told = False
        self._state_path = run.dir / STATE / f"{name}.json"
        self._state = read_state(self._state_path) or {"id": f"{run.id}-{run.step}-{run.attempt}", "sent": {}}
        folder = cfg.folder or run.root / "sinks"
        self._execution = Execution(self._state["id"], run.step, run.id, run.config, folder.resolve())
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(cfg,), name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, rows: Iterable[Row]) -> None:
        """Send these rows when the sink has taken those before."""
        for row in rows:
            self._rows.put(row)

    def failure(self) -> str:
        """Why it stopped sending, the first time this is asked after it did; empty otherwise."""
        if self._told or not self._problem:
            return ""
        self._told = True
        return self._problem

    def close(self) -> None:
        """Let the sink take what is left; one that takes too long is given up."""
        self._rows.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._problem = f"it did not take the last rows in {PATIENCE_S:.0f} s"

    def _work(self, cfg: Sinks) -> None:
        try:
            sink = SINKS[self.name](self._execution, cfg)
            while (row := self._rows.get()) is not None:
                self._send(sink.write, row)
            sink.close()
        except ModuleNotFoundError as lacking:
            self._problem = f"there is no module {lacking.name}: pip install 'thinkery[{self.name}]'"
        except Exception as error:  # whatever a tracker raises is its own affair
            self._problem = f"{type(error).__name__}: {error}".splitlines()[0]

    def _send(self, write: Callable[[int, float, Mapping[str, float]], None], row: Row) -> None:
        """Write what is new in a row, then note it."""
        step, sent = row["step"], self._state["sent"]
        numbers = {name: value for name, value in row.items() if name not in ("step", "at") and value is not None}
        new = {name: value for name, value in numbers.items() if step > sent.get(name, -1)}
        if new:
            write(step, row["at"], new)
            sent.update(dict.fromkeys(new, step))
            if not self._problem:  # given up: the step's folder may be sealed by now
                write_file(self._state_path, json.dumps(self._state), sync=False)
