"""How an update's micro-batches are dealt to the ranks: equal numbers of them, as equally full as packing makes them.

Every rank packs the whole update, which takes little time beside learning from it, and works on its share alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from thinkery.pipeline.ranks import ALONE, Ranks

B = TypeVar("B")
NEAR = 1.05
"""How much larger the limit of a micro-batch may be than the least that would have done."""


@dataclass(frozen=True, slots=True)
class Share(Generic[B]):
    """One rank's micro-batches, and those of others that it computes without effect where all ranks must keep step."""

    own: Sequence[B]
    idle: Sequence[B] = ()


def dealt(pack: Callable[[int], Sequence[B]], max_tokens: int, ranks: Ranks) -> Share[B]:
    """This rank's part of the micro-batches of at most `max_tokens` tokens, with idle ones as many as any rank's."""
    if ranks is ALONE:
        return Share(pack(max_tokens))
    batches = evenly(pack, max_tokens, ranks.count)
    own = ranks.share(batches)
    missing = -(-len(batches) // ranks.count) - len(own)
    return Share(own, batches[:missing])


def evenly(pack: Callable[[int], Sequence[B]], max_tokens: int, ranks: int) -> Sequence[B]:
    """Micro-batches with the smallest limit that takes the ranks no more rounds than `max_tokens` does."""
    batches = pack(max_tokens)
    most = ranks * -(-len(batches) // ranks)
    lowest, highest = 1, max_tokens
    while highest > NEAR * lowest + 1:
        middle = max(lowest + 1, math.isqrt(lowest * highest))
        tried = pack(middle)
        if len(tried) > most:
            lowest = middle
        else:
            batches, highest = tried, middle
    return batches


def collected(found: list[list[float]], ranks: Ranks) -> list[list[float]]:
    """Every example's numbers, each of which one rank has found."""
    if ranks is ALONE:
        return found
    parts = ranks.gather({place: numbers for place, numbers in enumerate(found) if numbers})
    by_place = {place: numbers for part in parts for place, numbers in part.items()}
    return [by_place.get(place, []) for place in range(len(found))]
