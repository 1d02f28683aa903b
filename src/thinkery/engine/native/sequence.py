"""What is in flight: a `Prompt` is one request under way, a `Sample` one of its continuations.

Samples of one prompt read it from the same place in the cache, their `Share` of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from thinkery import chat
from thinkery.core import Completion, Finish
from thinkery.engine.base import Request
from thinkery.model.tokenizer import Tokenizer


@dataclass(slots=True, eq=False)
class Prompt:
    """One request under way: its tokens, its samples that wait for room, and what the runner computed of it."""

    id: str
    request: Request
    tokens: tuple[int, ...]
    opened: bool
    """Whether the prompt already opened the thought."""
    limit: int
    """How many tokens each sample may have."""
    deadline: float
    """On the clock of `time.monotonic`; infinite where there is none."""
    waiting: deque[Sample] = field(default_factory=deque)
    reading: Any = None
    """The runner's work on the prompt, kept until no sample waits."""
    known: int = 0
    """Its first tokens that earlier requests had computed."""
    put_off: int | None = None
    """How much of its beginning was known when it last waited for more of it to be."""
    begun_at: float | None = None
    """When it began to be read, on the clock of `time.monotonic`."""
    share: Share | None = None
    """The share that the latest sample joined."""
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class Share:
    """One copy of a prompt in the cache."""

    slot: int
    sharers: int = 0
    """Running samples that read it."""
    filled: bool = False


@dataclass(slots=True, eq=False)
class Sample:
    """One continuation of a prompt and what it has said so far."""

    prompt: Prompt
    number: int
    seed: int
    stops: StopSearch | None
    version: int = 0
    """Of the weights that sample its next token."""
    earlier: tuple[tuple[int, int], ...] = ()
    """(version, tokens) of what other weights sampled before."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    share: Share | None = None
    """Where its prompt is in the cache; None while it does not run."""
    admission: int = 0
    """How many samples ran before it."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """Beside its latest token."""
    again: Any = None
    """The runner's work on its text where it has to be computed once more, because it had to make room."""

    @property
    def text(self) -> tuple[int, ...]:
        """Tokens of prompt and continuation."""
        return (*self.prompt.tokens, *self.tokens)

    @property
    def length(self) -> int:
        """How many those are."""
        return len(self.prompt.tokens) + len(self.tokens)

    @property
    def shared(self) -> int:
        """How many of them are read from the share: the prompt's, where a prompt has several samples."""
        return len(self.prompt.tokens) if len(self.prompt.request.seeds) > 1 else 0

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(version, tokens) of all that was sampled."""
        own = len(self.tokens) - sum(tokens for _, tokens in self.earlier)
        if not own:
            return self.earlier
        if self.earlier and self.earlier[-1][0] == self.version:
            return (*self.earlier[:-1], (self.version, self.earlier[-1][1] + own))
        return (*self.earlier, (self.version, own))

    def begin_with(self, said: Completion) -> None:
        """Go on from what was said before."""
        self.tokens, self.logprobs = list(said.tokens), list(said.logprobs)
        self.earlier = said.spans or ((said.version, len(said.tokens)),)
        if self.stops is not None:
            for token in said.tokens:
                self.stops.found(token)

    def follow(self, version: int) -> None:
        """Other weights sample from now on."""
        self.earlier, self.version = self.spans, version

    @property
    def reading(self) -> Any:
        """The runner's work on its text: that on the prompt, until it has said something."""
        return self.again if self.tokens else self.prompt.reading

    @reading.setter
    def reading(self, work: Any) -> None:
        if self.tokens:
            self.again = work
        else:
            self.prompt.reading = work

    def leave(self) -> None:
        """Stop running."""
        if self.share is not None:
            self.share.sharers -= 1
            self.share = None

    def add(self, token: int, logprob: float, eos_ids: frozenset[int]) -> None:
        """Take one more token, and see whether it was the last."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in eos_ids or (self.stops is not None and self.stops.found(token)):
            self.finish = "stop"
        elif len(self.tokens) >= self.prompt.limit:
            self.finish = "length"

    def completion(self, tokenizer: Tokenizer) -> Completion:
        """What was said, its text cut before the first stop string."""
        assert self.finish is not None
        opened, stops = self.prompt.opened, self.prompt.request.sampling.stop
        spans = self.spans or ((self.version, 0),)
        whole = tokenizer.completion(self.tokens, self.logprobs, self.finish, opened=opened, version=spans[0][0])
        whole = replace(whole, spans=spans) if len(spans) > 1 else whole
        text = cut(whole.text, stops)
        if len(text) == len(whole.text):
            return whole
        parts = chat.split(text, opened=opened)
        return replace(whole, text=text, thought=parts.thought, answer=parts.answer, closed=parts.closed)


class StopSearch:
    """Looks for stop strings in text that comes token by token; a string may span any number of tokens."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.stream, self.stops = tokenizer.stream(), tuple(stops)
        self.overlap = max(map(len, stops)) - 1
        self.tail = ""

    def found(self, token: int) -> bool:
        """Whether a stop string is complete now that `token` has come."""
        text = self.tail + self.stream.push(token)
        self.tail = text[-self.overlap :] if self.overlap else ""
        return any(stop in text for stop in self.stops)


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first stop string in it."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
