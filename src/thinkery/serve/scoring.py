"""A prompt whose own log-probabilities are asked for: it is read a part in each step of its replica, then answered.

They are the model's own, of softmax(logits), whatever the request says of temperature and top-p.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from thinkery.engine import NativeEngine
from thinkery.engine.native.scoring import TextScore
from thinkery.errors import UsageError
from thinkery.serve.jobs import Job, Mark, News, Word
from thinkery.serve.words import word

if TYPE_CHECKING:
    from thinkery.serve.replica import Opened


class Scoring:
    """The work on the prompt of one job: `advance` until `complete`, tell the `news`, and do what is `left`."""

    def __init__(self, job: Job, model: Opened, arrived: float) -> None:
        if not isinstance(model.engine, NativeEngine):
            raise UsageError("only the built-in engine tells the log-probabilities of a prompt")
        self.job, self.tokenizer = job, model.tokenizer
        self.score = TextScore(model.engine, job.prompt, job.salt, job.alternatives)
        self.arrived = arrived
        self.deadline = math.inf if job.deadline_s is None else arrived + job.deadline_s
        self.queued_s: float | None = None
        """How long it waited before it was begun."""
        self.marks = [Mark(self.word(job.prompt[0]), None)]

    @property
    def complete(self) -> bool:
        """Whether all of the prompt is scored."""
        return self.score.complete

    def advance(self, tokens: int) -> None:
        """Read at most so many more tokens."""
        if self.queued_s is None:
            self.queued_s = time.monotonic() - self.arrived
        for one in [] if self.complete else self.score.advance(tokens):
            likeliest = tuple((self.word(id), p) for id, p in one.alternatives)
            self.marks.append(Mark(self.word(self.job.prompt[len(self.marks)]), one.logprob, likeliest))

    @property
    def news(self) -> News:
        """What was found; the job's end where nothing is to be generated."""
        end = None if self.job.sampling.max_tokens else "length"
        return News(self.job.id, prompt_marks=tuple(self.marks), queued_s=self.queued_s, end=end)

    @property
    def left(self) -> Job:
        """The answer, in the time that is left."""
        return self.job.after(time.monotonic() - self.arrived)

    def word(self, token: int) -> Word:
        """The text of one token."""
        return word(self.tokenizer, token)
