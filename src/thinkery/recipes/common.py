"""What every recipe can set besides its steps; none of it counts for what a step makes."""

from __future__ import annotations

from thinkery.config import Config
from thinkery.pipeline.prices import Prices
from thinkery.pipeline.pulse import Watchdog
from thinkery.recipes.expected import Expected
from thinkery.sinks import Alerts, Sinks


class RecipeConfig(Config):
    """Base of a recipe's settings: where its curves and alarms go besides the record, what it waits for, and prices."""

    sinks: Sinks = Sinks()
    """The experiment trackers that are sent the metrics."""
    alerts: Alerts = Alerts()
    """What is called when an alarm rings."""
    watchdog: Watchdog = Watchdog()
    """How long several ranks wait for each other."""
    prices: Prices = Prices()
    """What `thinkery serve RUN` charges for the run's models, unless the server's own settings say otherwise."""
    expected: Expected = Expected()
    """What `thinkery plan` takes answers and filters to be like."""
