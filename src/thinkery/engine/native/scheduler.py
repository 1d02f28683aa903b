"""Who runs: first come, first served, as many samples as rows and cache memory allow.

Memory is given out as it is needed: a sample is admitted when it fits beside what everyone holds now, and when the
running ones outgrow the cache, the youngest goes back to wait and is computed again later.

A step computes so many tokens of prompts and no more. The first in the queue gets them all; what is left over goes to
those behind it. So there is never more than one text of which a part is done, and nobody overtakes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from thinkery.engine.native.sequence import Prompt, Sample, Share

GRAIN = 32
"""Tokens by which a sample's room for its own text grows."""

SHARERS = 16
"""Samples that read one copy of their prompt. Shares are computed side by side, padded to the largest."""

T = TypeVar("T")

Moves = tuple[list[int], list[int]]
"""Slots that moved, and where to."""


@dataclass(frozen=True, slots=True)
class Room:
    """The cache that a batch takes: every share the longest shared prompt's tokens, every row the longest row's own."""

    shares: int = 0
    prompt: int = 0
    rows: int = 0
    own: int = 0

    @property
    def tokens(self) -> int:
        """Cache memory in tokens."""
        return self.shares * self.prompt + self.rows * self.own

    def joined_by(self, sample: Sample, shares: int) -> Room:
        """With one more row that brings so many more shares."""
        prompt, own = max(self.prompt, sample.shared), max(self.own, own_room(sample))
        return Room(self.shares + shares, prompt, self.rows + 1, own)


class Scheduler:
    """The waiting prompts and the running samples; `rows[i]` and `shares[i]` own slot i of their caches."""

    def __init__(self, max_batch: int, cache_tokens: int, prefill: int) -> None:
        self.max_batch, self.cache_tokens, self.prefill = max_batch, cache_tokens, prefill
        self.queue: deque[Prompt] = deque()
        self.rows: list[Sample] = []
        self.shares: list[Share] = []
        self.admissions = 0

    @property
    def room(self) -> Room:
        """What the running samples take."""
        return room_of(self.rows)

    @property
    def half_read(self) -> Sample | None:
        """The waiting sample of whose text a part is done: the first, if any."""
        first = self.queue[0].waiting[0] if self.queue else None
        return first if first is not None and first.reading is not None and first.reading.missing else None

    def admit(self, take: Callable[[Sample, int], tuple[int, bool]]) -> list[Sample]:
        """Move waiting samples into rows, at the end, and return them.

        `take(sample, tokens)` is asked to compute at most so many tokens of the next sample's text in this step, and
        says how many it takes and whether the text is complete with them.
        """
        if not self.queue:
            return []
        before, room, left = len(self.rows), self.room, self.prefill
        while self.queue and len(self.rows) < self.max_batch:
            prompt = self.queue[0]
            room = self.joined(room, prompt.waiting[0])
            if room.tokens > self.cache_tokens:
                break
            taken, complete = take(prompt.waiting[0], left)
            left -= taken
            if not complete:
                break
            self.seat(prompt.waiting.popleft())
            if not prompt.waiting:
                self.queue.popleft()
        return self.rows[before:]

    def joined(self, room: Room, sample: Sample) -> Room:
        """What a batch takes with this sample too."""
        return room.joined_by(sample, shares=0 if joinable(sample.prompt.share) else 1)

    def seat(self, sample: Sample) -> None:
        """Give a sample a row, and a share of its prompt."""
        share = sample.prompt.share
        if share is None or not joinable(share):
            share = sample.prompt.share = Share(len(self.shares))
            self.shares.append(share)
        share.sharers += 1
        sample.share, sample.admission = share, self.admissions
        self.admissions += 1
        self.rows.append(sample)

    def preempt(self) -> None:
        """Take memory from the youngest until the others have room for their next tokens: from a text that is half
        read, then from samples, which wait again."""
        staying = [sample for sample in self.rows if sample.finish is None]
        room, half_read = room_of(staying), self.half_read
        if half_read is not None and self.joined(room, half_read).tokens > self.cache_tokens:
            half_read.reading = None
        if room.tokens <= self.cache_tokens:
            return
        staying.sort(key=lambda sample: sample.admission)
        while room_of(staying).tokens > self.cache_tokens:
            youngest = staying.pop()
            youngest.leave()
            youngest.prompt.waiting.appendleft(youngest)
            if youngest.prompt not in self.queue:
                self.queue.appendleft(youngest.prompt)

    def end_overdue(self, now: float) -> list[Sample]:
        """End what is cancelled or past its deadline; returns it, out of the queue but still in its row."""
        ended = [s for s in self.rows if s.prompt.cancelled or now > s.prompt.deadline]
        for prompt in [p for p in self.queue if p.cancelled or now > p.deadline]:
            self.queue.remove(prompt)
            ended += prompt.waiting
        for sample in ended:
            sample.finish = "cancelled" if sample.prompt.cancelled else "deadline"
        return ended

    def retire(self) -> tuple[Moves, Moves]:
        """Drop rows that have ended or left, and shares that nobody reads; fill the holes from the end."""
        for sample in self.rows:
            if sample.finish is not None:
                sample.leave()
        rows = compact(self.rows, lambda sample: sample.share is not None)
        shares = compact(self.shares, lambda share: share.sharers > 0)
        for slot in shares[1]:
            self.shares[slot].slot = slot
        return rows, shares


def own_room(sample: Sample) -> int:
    """Tokens of its own that a sample has room for until it next needs more."""
    private = len(sample.prompt.tokens) - sample.shared
    return min(private + sample.prompt.limit, ((private + len(sample.tokens)) // GRAIN + 1) * GRAIN)


def room_of(rows: Iterable[Sample]) -> Room:
    """What these samples take."""
    shares, prompt, count, own = set(), 0, 0, 0
    for sample in rows:
        shares.add(sample.share)
        prompt, own, count = max(prompt, sample.shared), max(own, own_room(sample)), count + 1
    return Room(len(shares), prompt, count, own)


def joinable(share: Share | None) -> bool:
    """Whether a share is in the cache and has room for one more."""
    return share is not None and 0 < share.sharers < SHARERS


def compact(items: list[T], alive: Callable[[T], bool]) -> Moves:
    """Drop what is not alive and fill the holes from the end."""
    kept = sum(map(alive, items))
    holes = [i for i in range(kept) if not alive(items[i])]
    movers = [i for i in range(kept, len(items)) if alive(items[i])]
    for source, target in zip(movers, holes, strict=True):
        items[target] = items[source]
    del items[kept:]
    return movers, holes
