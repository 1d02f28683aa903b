"""Where a run's curves and alarms go besides its record: experiment trackers, a command, a webhook; all optional.

    [sinks]
    to = ["tensorboard", "wandb"]

    [alerts]
    webhook = "https://example.org/alarms"

Each step is one run of a tracker, grouped by the run's id. The record stays the only source: a sink is sent what it
has not had yet, so that a resumed run continues its curves, and a sink that fails loses nothing but its own copy.
Nothing here can slow, stop or change the run. Limit: events and samples are not sent, only metrics.
"""

from __future__ import annotations

from thinkery.sinks.broadcast import Broadcast
from thinkery.sinks.hooks import Alerts
from thinkery.sinks.trackers import Sinks

__all__ = ["Alerts", "Broadcast", "Sinks"]
