"""Who runs: first come, first served, as many samples as rows and cache memory allow."""

from __future__ import annotations

from collections import deque

from thinkery.engine.native.sequence import Prompt, Sample


class Scheduler:
    """The waiting prompts and the running samples; `rows[i]` owns slot i of the cache."""

    def __init__(self, max_batch: int, cache_tokens: int) -> None:
        self.max_batch, self.cache_tokens = max_batch, cache_tokens
        self.queue: deque[Prompt] = deque()
        self.rows: list[Sample] = []

    @property
    def longest(self) -> int:
        """The most tokens that a running sample may come to hold."""
        return max((s.prompt.longest for s in self.rows), default=0)

    def admit(self) -> list[Sample]:
        """Move waiting samples into rows, at the end; returns them.

        Every row is reserved the longest length that any row may reach, so nothing admitted is ever evicted.
        """
        before, longest = len(self.rows), self.longest
        while self.queue:
            prompt = self.queue[0]
            longest = max(longest, prompt.longest)
            room = min(self.max_batch, self.cache_tokens // longest) - len(self.rows)
            for _ in range(min(room, len(prompt.waiting))):
                self.rows.append(prompt.waiting.popleft())
            if prompt.waiting:
                break
            self.queue.popleft()
        return self.rows[before:]

    def end_overdue(self, now: float) -> list[Sample]:
        """End what is cancelled or past its deadline; returns it, out of the queue but still in its row."""
        ended = [s for s in self.rows if s.prompt.cancelled or now > s.prompt.deadline]
        for prompt in [p for p in self.queue if p.cancelled or now > p.deadline]:
            self.queue.remove(prompt)
            ended += prompt.waiting
        for sample in ended:
            sample.finish = "cancelled" if sample.prompt.cancelled else "deadline"
        return ended

    def retire(self) -> tuple[list[int], list[int]]:
        """Drop ended rows and fill the holes from the end; returns the slots that moved, and where to."""
        kept = sum(s.finish is None for s in self.rows)
        holes = [i for i in range(kept) if self.rows[i].finish is not None]
        movers = [i for i in range(kept, len(self.rows)) if self.rows[i].finish is None]
        for source, target in zip(movers, holes, strict=True):
            self.rows[target] = self.rows[source]
        del self.rows[kept:]
        return movers, holes
