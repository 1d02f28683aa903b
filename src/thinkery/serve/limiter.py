"""Requests and tokens per minute of every key: buckets that fill up again all the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from thinkery.serve.config import Limits
from thinkery.serve.refusals import Refusal

KEPT = 10_000
"""Keys whose buckets are remembered; a forgotten one is full again."""


@dataclass(slots=True)
class Bucket:
    """`level` of `size` are left; a minute fills it."""

    size: int
    level: float
    at: float

    def refill(self, now: float) -> None:
        """Add what has come since."""
        self.level = min(float(self.size), self.level + (now - self.at) * self.size / 60)
        self.at = now

    def wait_s(self, wanted: float) -> float:
        """Until so much is there."""
        return max(0.0, (wanted - self.level) * 60 / self.size)


@dataclass(slots=True)
class Limiter:
    """The buckets of all keys."""

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def admit(self, key: str) -> dict[str, str]:
        """Count one request; returns the headers that tell, raises Refusal (429) where a bucket is empty."""
        buckets = {kind: self.bucket(key, kind, size) for kind, size in self.sizes().items() if size}
        wait_s = max((bucket.wait_s(1) for bucket in buckets.values()), default=0.0)
        if wait_s > 0:
            headers = self.headers(buckets) | {"Retry-After": str(math.ceil(wait_s))}
            raise Refusal(429, "Rate limit reached for this api key, please slow down", headers=headers)
        if "requests" in buckets:
            buckets["requests"].level -= 1
        return self.headers(buckets)

    def spend(self, key: str, tokens: int) -> None:
        """Count tokens, which may leave less than nothing."""
        if size := self.limits.tokens_per_minute:
            self.bucket(key, "tokens", size).level -= tokens

    def sizes(self) -> dict[str, int | None]:
        """What is limited."""
        return {"requests": self.limits.requests_per_minute, "tokens": self.limits.tokens_per_minute}

    def bucket(self, key: str, kind: str, size: int) -> Bucket:
        """A key's bucket as it is now."""
        now = self.clock()
        bucket = self.buckets.pop((key, kind), None) or Bucket(size, size, now)
        bucket.refill(now)
        self.buckets[key, kind] = bucket  # at the end: used last
        while len(self.buckets) > 2 * KEPT:
            del self.buckets[next(iter(self.buckets))]
        return bucket

    def headers(self, buckets: dict[str, Bucket]) -> dict[str, str]:
        """What is left, as OpenAI's servers tell it."""
        told: dict[str, str] = {}
        for kind, bucket in buckets.items():
            told[f"x-ratelimit-limit-{kind}"] = str(bucket.size)
            told[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(bucket.level)))
            told[f"x-ratelimit-reset-{kind}"] = f"{bucket.wait_s(bucket.size):.3f}s"
        return told
