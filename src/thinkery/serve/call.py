"""One request under way: its jobs, what they have said so far, and what it used."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from thinkery.chat import Call as ToolCall
from thinkery.serve.door import Door
from thinkery.serve.inbox import Inbox
from thinkery.serve.jobs import End, Job, Mark, News
from thinkery.serve.refusals import Refusal, overloaded

Heard = dict[int, News]
"""News by the number of the answer they are of."""


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

    thoughts: list[str] = field(default_factory=list)
    """The thought in pieces."""
    answers: list[str] = field(default_factory=list)
    """The answer in pieces."""
    thought_marks: list[Mark] = field(default_factory=list)
    answer_marks: list[Mark] = field(default_factory=list)
    prompt_marks: list[Mark] = field(default_factory=list)
    tokens: int = 0
    reasoning: int = 0
    hit: int = 0
    end: End | None = None
    unclosed: bool = False
    begun: bool = False
    """Whether the prompt was read."""
    queued_s: float | None = None
    calls: tuple[ToolCall, ...] = ()

    @property
    def thought(self) -> str:
        """The thought as far as it has come."""
        return "".join(self.thoughts)

    @property
    def answer(self) -> str:
        """The answer as far as it has come."""
        return "".join(self.answers)

    def add(self, news: News) -> None:
        """What has come since."""
        self.begun = self.begun or news.begun
        if news.thought:
            self.thoughts.append(news.thought)
        if news.answer:
            self.answers.append(news.answer)
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
        self.thoughts, self.answers, self.calls = [], [], ()
        self.thought_marks, self.answer_marks = [], []
        self.end, self.unclosed = "content_filter", False


class Call:
    """The jobs of one request; iterate `news`, then read `usage`, and `end` it in any case."""

    def __init__(self, door: Door, jobs: Sequence[Job], *, queue_s: float) -> None:
        self.door, self.jobs, self.queue_s = door, jobs, queue_s
        self.said = [Said() for _ in jobs]
        self.inbox = Inbox()
        self.numbers = {job.id: number for number, job in enumerate(jobs)}
        self.running = set(self.numbers)
        """Jobs that have not ended."""
        self.behind = behind(jobs)
        """Jobs that are not begun before a prompt is scored, by the job that has it scored."""
        self.started = time.monotonic()
        self.first_s: float | None = None
        """Seconds until the first token."""
        self.review_s: float | None = None
        """Seconds that risk control took."""

    def submit(self) -> None:
        """Have the jobs done: of those whose prompt is scored, the first, and the others when that is known."""
        later = {job.id for jobs in self.behind.values() for job in jobs}
        for job in self.jobs:
            if job.id not in later:
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
            prompt=sum(prompt for prompt, said in counted if said.begun),
            hit=sum(said.hit for prompt, said in counted if prompt and said.begun),
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

    async def news(self, *, silence_s: float | None = None) -> AsyncIterator[Heard]:
        """What has come, by number of the answer, until all have ended; empty after every `silence_s` of silence.

        Raises Refusal for what cannot be answered, in the end or in time.
        """
        try:
            while self.running:
                heard, refusal = self.take(await self.inbox.take(self.patience(silence_s)))
                if heard or refusal is None:
                    yield heard
                if refusal is not None:
                    raise refusal
        finally:
            self.inbox.close()

    def patience(self, silence_s: float | None) -> float | None:
        """How long to wait for the next news."""
        left = None if self.first_s is not None else max(0.0, self.queue_s - self.seconds)
        waits = [wait for wait in (left, silence_s) if wait is not None]
        return min(waits, default=None)

    def take(self, batch: Sequence[News]) -> tuple[Heard, Refusal | None]:
        """Note what has come; returns what there is to tell of it, and why there will be no more."""
        heard: Heard = {}
        refusal = None
        for news in batch:
            number = self.numbers[news.job]
            self.note(news)
            if news.problem:
                refusal = Refusal(500, news.problem)
            elif news.end == "deadline":
                refusal = Refusal(500, f"The answer took longer than the server allows ({self.seconds:.0f} seconds)")
            else:
                heard[number] = heard[number].before(news) if number in heard else news
        if heard and self.first_s is None:
            self.first_s = self.seconds
        if not batch and self.first_s is None and self.seconds >= self.queue_s:
            refusal = overloaded(f"The request waited {self.queue_s:g} seconds for its turn")
        return heard, refusal

    def note(self, news: News) -> None:
        """Count what has come."""
        if not news.problem:
            self.said[self.numbers[news.job]].add(news)
        if news.end is not None or news.problem:
            self.running.discard(news.job)
        if news.prompt_marks:
            self.begin_behind(news)

    def begin_behind(self, scored: News) -> None:
        """A prompt is scored: the other answers to it repeat what was found, and begin."""
        for job in self.behind.pop(scored.job, ()):
            end = None if job.sampling.max_tokens else "length"
            self.inbox.put(News(job.id, prompt_marks=scored.prompt_marks, end=end))
            if end is None:
                self.door.submit(replace(job.after(self.seconds), score_prompt=False), self.inbox)

    def abort(self, why: str) -> None:
        """End all that is running with an error."""
        for job in self.running:
            self.inbox.put(News(job, problem=why))

    async def end(self) -> bool:
        """Stop what is still running and hear its last news, so that all that was generated is counted.

        Returns whether anything had to be stopped.
        """
        cut = bool(self.running)
        self.running.difference_update(job.id for jobs in self.behind.values() for job in jobs)
        self.behind.clear()
        for job in self.running:
            self.door.cancel(job)
        while self.running:
            for news in await self.inbox.take():
                self.note(news)
        return cut


def behind(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Of jobs whose prompts are scored, those whose prompt an earlier one has scored, by the id of that one."""
    first: dict[tuple[int, ...], str] = {}
    found: dict[str, list[Job]] = {}
    for job in jobs:
        if job.score_prompt and first.setdefault(job.prompt, job.id) != job.id:
            found.setdefault(first[job.prompt], []).append(job)
    return found
