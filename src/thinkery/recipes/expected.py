"""What a recipe's author expects of its steps, from a run: `thinkery plan` counts with it, and a run's time to its end.

No step is another for it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import Field

from thinkery.config import Config
from thinkery.errors import ConfigError
from thinkery.pipeline.step import suggestion

Length = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Expected(Config):
    """How long answers are, how many rows pass the filters and how many groups teach, by step."""

    tokens: dict[str, Length] = {}
    """The mean completion of a step that samples."""
    rows: dict[str, Length] = {}
    """The mean tokens of a conversation that a step leaves, question and answer."""
    kept: dict[str, Share] = {}
    """The rows that a step leaves, as a share of the most that its settings allow."""
    learnt: dict[str, Share] = {}
    """The groups whose rewards differ, as a share of all; the others are not learnt with `skip_no_spread`."""

    def over(self, other: Expected) -> Expected:
        """The same, and of steps that it does not name what another expects."""
        return Expected(
            tokens=other.tokens | self.tokens, rows=other.rows | self.rows, kept=other.kept | self.kept,
            learnt=other.learnt | self.learnt,
        )  # fmt: skip

    def require_steps(self, names: Collection[str]) -> None:
        """Raise ConfigError where something is expected of a step that there is not."""
        for block, values in self:
            for name in values:
                if name not in names:
                    hint = suggestion(name, list(names))
                    raise ConfigError("there is no such step", where=f"expected.{block}", found=name, hint=hint)
