"""One answer under way inside a replica: tokens become thought and answer, limits and stop strings end it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from thinkery.chat import CLOSE, Call, SplitStream, overhang
from thinkery.engine.base import Event, Request
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.jobs import End, Job, Mark, News
from thinkery.serve.tools import CallCut
from thinkery.serve.words import word


class Guide(Protocol):
    """A grammar in the course of an answer."""

    @property
    def problem(self) -> str:
        """Why the answer cannot go on by the grammar, or ""."""
        ...

    def allowed(self) -> Sequence[int]:
        """The tokens that may come next."""
        ...

    def opening(self, held: str) -> Sequence[int]:
        """The tokens that may come where a thought may still begin, of whose tag `held` has come."""
        ...

    def thinking(self, held: str) -> Sequence[int] | None:
        """The tokens that may come in a thought that ends with `held`; None for all of them."""
        ...

    def take(self, token: int) -> None:
        """This one has come."""
        ...


class Choice:
    """The course of one job: `request` for the engine, then `take` for each of its events."""

    def __init__(self, job: Job, tokenizer: Tokenizer, guide: Guide | None = None) -> None:
        self.job, self.tokenizer, self.guide = job, tokenizer, guide
        self.text = tokenizer.stream()
        self.parts = SplitStream(opened=job.begins == "thought")
        self.stops = StopCut(job.stop)
        self.cut = CallCut(job.id) if job.calls else None
        self.tokens = self.reasoning = 0
        self.penalises = bool(job.frequency_penalty or job.presence_penalty)
        self.said: Counter[int] = Counter()
        self.closing: deque[int] = deque()
        """What is left to say of the words that close a thought which became too long."""
        self.undecided: list[Mark] = []
        """Tokens of which it is not known yet whether they are thought or answer."""
        self.end: End | None = None

    @property
    def answering(self) -> bool:
        """Whether the next token belongs to the answer."""
        return self.job.begins == "answer" or self.parts.place in ("gap", "answer")

    def request(self) -> Request:
        """The job as the engine takes it."""
        job = self.job
        return Request(
            (job.seed,),
            job.sampling,
            prompt=job.prompt,
            salt=job.salt,
            deadline_s=job.deadline_s,
            mask=self.allowed if self.guide or job.max_thought is not None else None,
            bias=self.bias if job.frequency_penalty or job.presence_penalty or job.logit_bias else None,
            alternatives=job.alternatives,
            followed=True,
        )

    def allowed(self, tokens: Sequence[int]) -> Sequence[int] | None:
        """The words that close the thought once it is too long; in the answer, and where it begins, what the grammar
        allows."""
        if self.answering:
            self.closing.clear()
            return self.guide.allowed() if self.guide else None
        if self.guide and self.parts.place == "start" and not self.parts.opened:
            return self.guide.opening(self.parts.held)
        limit = self.job.max_thought
        if limit is not None and self.parts.thinks and self.reasoning >= limit and not self.closing:
            self.closing.extend(self.tokenizer.encode(f"\n{CLOSE}"))
        if self.closing:
            return (self.closing.popleft(),)
        return self.guide.thinking(self.parts.held) if self.guide else None

    def bias(self, tokens: Sequence[int]) -> Mapping[int, float]:
        """What the request adds to logits: its own bias, less for tokens that were said already."""
        added = dict(self.job.logit_bias)
        for token, count in self.said.items():
            penalty = self.job.presence_penalty + self.job.frequency_penalty * count
            added[token] = added.get(token, 0.0) - penalty
        return added

    def take(self, event: Event, *, queued_s: float | None = None) -> News:
        """An event of the engine as news of the job, whose first ones tell how long it was queued."""
        thought = answer = ""
        thought_marks, answer_marks = [], []
        for place, token in enumerate(event.tokens):
            was_answering = self.answering
            more = self.push(token, ended=event.completion is not None)
            thought, answer = thought + more[0], answer + more[1]
            if self.job.logprobs:
                self.undecided.append(self.mark(token, event.logprobs[place], event.alternatives))
            if was_answering or self.parts.place != "start":
                (answer_marks if was_answering or not self.parts.thinks else thought_marks).extend(self.undecided)
                self.undecided.clear()
        self.end = self.ended(event)
        if self.guide and self.guide.problem:
            return News(self.job.id, end="stop", problem=self.guide.problem)  # an end, so that the engine stops too
        calls: tuple[Call, ...] = ()
        if self.end is not None:
            more = self.close()
            rest, calls = self.cut.close() if self.cut else ("", ())
            thought, answer = thought + more[0], answer + more[1] + rest
            self.end = "tool_calls" if calls and self.end == "stop" else self.end
            (thought_marks if self.parts.thinks else answer_marks).extend(self.undecided)
        return News(
            self.job.id,
            thought,
            answer,
            thought_marks=tuple(thought_marks),
            answer_marks=tuple(answer_marks),
            tokens=self.tokens,
            reasoning=self.reasoning,
            hit=event.known,
            queued_s=queued_s,
            end=self.end,
            calls=calls,
            unclosed=self.end is not None and self.parts.thinks and not self.parts.closed,
        )

    def push(self, token: int, *, ended: bool) -> tuple[str, str]:
        """Count a token; returns what is certain of thought and answer now."""
        self.tokens += 1
        if self.penalises:
            self.said[token] += 1
        over = ended and token in self.tokenizer.eos_ids
        was_answering = self.answering
        thought, answer = self.split("" if over else self.text.push(token))
        begins_answer = self.parts.place == "answer" and not self.parts.thinks
        if self.guide and not over and (was_answering or begins_answer):
            self.guide.take(token)
        if self.parts.thinks and not was_answering:
            self.reasoning = self.tokens
        return thought, self.shown(self.stops.push(answer))

    def shown(self, answer: str) -> str:
        """Of the answer, what is certainly no call of a tool."""
        return self.cut.push(answer) if self.cut else answer

    def split(self, text: str) -> tuple[str, str]:
        """Text as thought and answer; all of it answer where the model began there."""
        return ("", text) if self.job.begins == "answer" else self.parts.push(text)

    def ended(self, event: Event) -> End | None:
        """Whether this was the last token, and why."""
        if self.stops.found:
            return "stop"
        if event.completion is not None:
            return event.completion.finish
        limit = self.job.max_answer
        return "length" if limit is not None and self.tokens - self.reasoning >= limit and self.answering else None

    def close(self) -> tuple[str, str]:
        """What was held back."""
        thought, answer = self.split(self.text.close())
        last_thought, last_answer = self.parts.close()
        return thought + last_thought, self.shown(self.stops.push(answer + last_answer) + self.stops.close())

    def mark(self, token: int, logprob: float, alternatives: Sequence[tuple[int, float]]) -> Mark:
        """A token for those who asked for log-probabilities."""
        return Mark(
            word(self.tokenizer, token), logprob, tuple((word(self.tokenizer, id), p) for id, p in alternatives)
        )


class StopCut:
    """Text up to the first of several stop strings, which may come bit by bit."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held, self.found = tuple(stops), "", False

    def push(self, text: str) -> str:
        """What is certain now: nothing from a stop string on, and no possible beginning of one."""
        if self.found:
            return ""
        if not self.stops:
            return text
        self.held += text
        places = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        self.found = bool(places)
        sure = min(places) if places else len(self.held) - overhang(self.held, self.stops)
        said, self.held = self.held[:sure], "" if self.found else self.held[sure:]
        return said

    def close(self) -> str:
        """What was held back."""
        held, self.held = self.held, ""
        return held
