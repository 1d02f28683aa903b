"""What a recipe's author expects of its steps, from a run: `thinkery plan` counts with it, and nothing else does."""

from __future__ import annotations

from thinkery.config import Config


class Expected(Config):
    """How long answers are and how many rows pass the filters, by step."""

    tokens: dict[str, float] = {}
    """The mean completion of a step that samples."""
    rows: dict[str, float] = {}
    """The mean tokens of a conversation that a step leaves, question and answer."""
    kept: dict[str, float] = {}
    """The rows that a step leaves, as a share of the most that its settings allow."""
