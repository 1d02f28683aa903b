"""One request under way: its jobs, what they have said so far, and what it used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from thinkery.chat import Call as ToolCall
from thinkery.serve.door import Door
from thinkery.serve.jobs import End, Job, Mark, News
from thinkery.serve.refusals import Refusal, overloaded


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: of the prompt, those that were reused; of the completion, those of the thought."""

    prompt: int = 0
    hit: int = 0
    completion: int = 0
    reasoning: int = 0

    @property
    def miss(self) -> int:
        """Prompt tokens that were computed."""
        return self.prompt - self.hit


@dataclass(slots=True)
class Said:
    """One answer as far as it has come."""

    thought: str = ""
    answer: str = ""
    thought_marks: list[Mark] = field(default_factory=list)
    answer_marks: list[Mark] = field(default_factory=list)
    prompt_marks: list[Mark] = field(default_factory=list)
    tokens: int = 0
    reasoning: int = 0
    hit: int = 0
    end: End | None = None
    unclosed: bool = False
    heard: bool = False
    queued_s: float | None = None
    calls: tuple[ToolCall, ...] = ()

    def add(self, news: News) -> None:
        """What has come since."""
        self.heard = True
        self.thought += news.thought
        self.answer += news.answer
        self.thought_marks += news.thought_marks
        self.answer_marks += news.answer_marks
        self.prompt_marks += news.prompt_marks
        self.tokens, self.reasoning = max(self.tokens, news.tokens), max(self.reasoning, news.reasoning)
        self.hit = max(self.hit, news.hit)
        self.queued_s = news.queued_s if self.queued_s is None else self.queued_s
        self.calls += news.calls
        self.end, self.unclosed = news.end, news.unclosed

    def withhold(self) -> None:
        """Take back what was said; its tokens still count."""
        self.thought = self.answer = ""
        self.thought_marks, self.answer_marks, self.calls = [], [], ()
        self.end, self.unclosed = "content_filter", False


class Call:
    """The jobs of one request; iterate `news`, then read `usage`, and `end` it in any case."""

    def __init__(self, door: Door, jobs: Sequence[Job], *, queue_s: float) -> None:
        self.door, self.jobs, self.queue_s = door, jobs, queue_s
        self.said = [Said() for _ in jobs]
        self.inbox: asyncio.Queue[News] = asyncio.Queue()
        self.numbers = {job.id: number for number, job in enumerate(jobs)}
        self.running = set(self.numbers)
        """Jobs that have not ended."""
        self.started = time.monotonic()
        self.first_s: float | None = None
        """Seconds until the first token."""
        self.review_s: float | None = None
        """Seconds that risk control took."""

    def submit(self) -> None:
        """Have the jobs done."""
        for job in self.jobs:
            self.door.submit(job, self.inbox)

    @property
    def seconds(self) -> float:
        """How long it takes until now."""
        return time.monotonic() - self.started

    @property
    def usage(self) -> Usage:
        """What was used until now; a prompt counts once however many answers it has, and not before it was read."""
        counted = list(zip(self.prompts, self.said, strict=True))
        return Usage(
            prompt=sum(prompt for prompt, said in counted if said.heard),
            hit=sum(said.hit for prompt, said in counted if prompt),
            completion=sum(said.tokens for said in self.said),
            reasoning=sum(said.reasoning for said in self.said),
        )

    @property
    def prompts(self) -> list[int]:
        """Prompt tokens that each job counts: all of them for the first with this prompt, none for the others."""
        first: dict[tuple[int, ...], str] = {}
        for job in self.jobs:
            first.setdefault(job.prompt, job.id)
        return [len(job.prompt) if first[job.prompt] == job.id else 0 for job in self.jobs]

    async def news(self, *, silence_s: float | None = None) -> AsyncIterator[tuple[int, News] | None]:
        """(number of the answer, news) until all have ended; None after every `silence_s` without any.

        Raises Refusal for what cannot be answered, in the end or in time.
        """
        while self.running:
            try:
                async with asyncio.timeout(self.patience(silence_s)):  # wait_for of 3.11 forgets a cancellation
                    news = await self.inbox.get()
            except TimeoutError:
                if self.first_s is None and self.seconds >= self.queue_s:
                    raise overloaded(f"The request waited {self.queue_s:g} seconds for its turn") from None
                yield None
                continue
            yield self.take(news)

    def patience(self, silence_s: float | None) -> float | None:
        """How long to wait for the next news."""
        left = None if self.first_s is not None else max(0.0, self.queue_s - self.seconds)
        waits = [wait for wait in (left, silence_s) if wait is not None]
        return min(waits, default=None)

    def take(self, news: News) -> tuple[int, News]:
        """Note what has come."""
        number = self.numbers[news.job]
        if news.problem:
            self.running.discard(news.job)
            raise Refusal(500, news.problem)
        if self.first_s is None:
            self.first_s = self.seconds
        self.said[number].add(news)
        if news.end is not None:
            self.running.discard(news.job)
        if news.end == "deadline":
            raise Refusal(500, f"The answer took longer than the server allows ({self.seconds:.0f} seconds)")
        return number, news

    def abort(self, why: str) -> None:
        """End all that is running with an error."""
        for job in self.running:
            self.inbox.put_nowait(News(job, problem=why))

    async def end(self) -> bool:
        """Stop what is still running and hear its last news, so that all that was generated is counted.

        Returns whether anything had to be stopped.
        """
        cut = bool(self.running)
        for job in self.running:
            self.door.cancel(job)
        while self.running:
            news = await self.inbox.get()
            if not news.problem:
                self.said[self.numbers[news.job]].add(news)
            if news.end is not None or news.problem:
                self.running.discard(news.job)
        return cut
