"""How values are spread: how many lie up to each of several bounds, and their sum.

As prometheus_client's `Histogram`, but without its lock, which is felt where a value comes with every token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate


class Spread:
    """What was added, by bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def up_to(self) -> Iterator[tuple[str, int]]:
        """Each bound and how many values are not above it; at last "+Inf" and how many there are."""
        return zip([*(str(float(bound)) for bound in self.bounds), "+Inf"], accumulate(self.counts), strict=True)
