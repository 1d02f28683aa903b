"""What goes between the door and a replica: a `Job` is one answer to make, `News` what has come of it.

Plain data without torch, so that it can be sent to another process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from thinkery.chat import Call
from thinkery.core import Sampling

Begins = Literal["open", "thought", "answer"]
"""Where the model takes over: it may think or not; inside a thought; inside the answer (or in plain text)."""

End = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "deadline"]


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to make: `seed` decides it, `salt` says whose prefixes may be reused for it."""

    id: str
    model: str
    prompt: tuple[int, ...]
    seed: int
    sampling: Sampling
    """Without stop strings, which apply to the answer alone and are looked for in `stop`."""
    begins: Begins = "open"
    stop: tuple[str, ...] = ()
    max_thought: int | None = None
    """Tokens after which an open thought is closed."""
    max_answer: int | None = None
    """Tokens after which the answer ends, besides the limit of `sampling` for both."""
    salt: str = ""
    deadline_s: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: bool = False
    """Whether every token is told with its log-probability."""
    alternatives: int = 0
    """Likeliest tokens to tell beside it."""
    score_prompt: bool = False
    """Whether the prompt's own log-probabilities are told."""
    grammar: str = ""
    """A grammar of llguidance that the answer follows."""
    calls: bool = False
    """Whether calls of tools are taken out of the answer."""

    def after(self, seconds: float) -> Job:
        """The same with so much less time left."""
        return self if self.deadline_s is None else replace(self, deadline_s=max(0.0, self.deadline_s - seconds))


class Word(NamedTuple):
    """A token's text alone, and its bytes; the text of a part of a character is U+FFFD."""

    text: str
    spelling: bytes | None
    """None where they are not known."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One token with its log-probability, and the likeliest ones in its place; None for a text's first token."""

    token: Word
    logprob: float | None
    alternatives: tuple[tuple[Word, float], ...] = ()


class News(NamedTuple):
    """What has come since the last: text, and how much was used in all; `end` is set on the last.

    A tuple, because one is sent to another process for every token.
    """

    job: str
    thought: str = ""
    answer: str = ""
    thought_marks: tuple[Mark, ...] = ()
    answer_marks: tuple[Mark, ...] = ()
    prompt_marks: tuple[Mark, ...] = ()
    tokens: int = 0
    """Tokens generated until now."""
    reasoning: int = 0
    """Those of them that belong to the thought, its end included."""
    hit: int = 0
    """Prompt tokens that were not computed."""
    queued_s: float | None = None
    """How long the job had to wait before its prompt was read; told with the first token."""
    end: End | None = None
    calls: tuple[Call, ...] = ()
    """Tools that were called; with the last news."""
    unclosed: bool = False
    """Whether it ended inside the thought."""
    problem: str = ""
    """Why there is no answer; the last news too."""

    @property
    def begun(self) -> bool:
        """Whether the prompt was read; it was not where a job ended in the queue."""
        return bool(self.tokens or self.prompt_marks)

    def before(self, later: News) -> News:
        """This and what has come later, as if both had come at once."""
        return later._replace(
            thought=self.thought + later.thought,
            answer=self.answer + later.answer,
            thought_marks=self.thought_marks + later.thought_marks,
            answer_marks=self.answer_marks + later.answer_marks,
            prompt_marks=self.prompt_marks + later.prompt_marks,
            queued_s=later.queued_s if self.queued_s is None else self.queued_s,
            calls=self.calls + later.calls,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """How full a replica's memory for keys and values is, 0 to 1."""

    cache: float
