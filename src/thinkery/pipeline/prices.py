"""What the tokens of a run's models cost those who are served; a recipe sets it, `thinkery serve` charges it."""

from __future__ import annotations

from pydantic import Field

from thinkery.config import Config


class Prices(Config):
    """Nano-USD per token, exact integers; the defaults are the published prices of R1 in January 2025."""

    hit: int = Field(default=140, ge=0)
    """A prompt token that was found in the cache."""
    miss: int = Field(default=550, ge=0)
    """A prompt token that had to be computed."""
    completion: int = Field(default=2190, ge=0)
    """A token of thought or answer."""
