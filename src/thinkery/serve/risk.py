"""Risk control: a safety model or a judge reads request, thought and answer together before any of it is shown.

    thinkery serve runs/demo --safety-model runs/demo:harmless
    thinkery serve runs/demo risk.judge.url=https://… risk.judge.model=…

Until there is a verdict, nothing is told of an answer: a stream says that it lives, and then comes at once. What is not
safe is withheld (no text, `finish_reason` "content_filter") and its tokens are charged. Where there is no verdict (the
judge cannot be reached or understood, the text is too long for the safety model), the request fails.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from thinkery.core import Completion, Message, Score, Task
from thinkery.errors import ConfigError, ThinkeryError
from thinkery.serve.call import Call, Heard, Said
from thinkery.serve.config import Risk
from thinkery.serve.jobs import News
from thinkery.serve.refusals import Refusal

LOG = logging.getLogger("thinkery.serve")

Exchange = tuple[Task, Completion]
Judge = Callable[[Sequence[Exchange]], list[Score]]
"""Exchanges → 1 for a safe one, 0 for an unsafe one, in order."""


@contextmanager
def open_risk_control(cfg: Risk) -> Iterator[RiskControl | None]:
    """The layer that the settings ask for, until the block ends; None where they name nobody."""
    if cfg.model and cfg.judge:
        raise ConfigError("a safety model and a judge cannot both decide", where="risk", hint="name one of them")
    if cfg.judge:
        from thinkery.engine.http import HttpEngine
        from thinkery.rewards.judge import SafetyJudge

        engine = HttpEngine(cfg.judge)
        judge = SafetyJudge(engine, cfg.sampling)
        try:
            yield RiskControl(lambda exchanges: judge.batch([in_one(*one) for one in exchanges]), cfg.patience_s)
        finally:
            engine.release()
    elif cfg.model:
        from thinkery.evals.safety import ScoredSafe
        from thinkery.rewards.preference import PreferenceReward

        yield RiskControl(ScoredSafe(PreferenceReward(Path(cfg.model), reads="all")).batch, cfg.patience_s)
    else:
        yield None


class RiskControl:
    """Has exchanges judged in a thread of its own, all that wait at the same time together."""

    def __init__(self, judge: Judge, patience_s: float) -> None:
        self.judge, self.patience_s = judge, patience_s
        self.waiting: queue.SimpleQueue[tuple[Exchange, Future[Score]]] = queue.SimpleQueue()
        threading.Thread(target=self.work, name="risk-control", daemon=True).start()

    async def news(
        self, call: Call, asked: Sequence[Sequence[Message]], *, silence_s: float | None = None
    ) -> AsyncIterator[Heard]:
        """The news of a call, once all of it was found safe or withheld; empty after every `silence_s` until then.

        `asked` has the conversation of every job. Raises Refusal where `Call.news` does, or without a verdict.
        """
        held: Heard = {}
        told = time.monotonic()
        async for heard in call.news(silence_s=silence_s):
            held |= {number: held[number].before(news) if number in held else news for number, news in heard.items()}
            if silence_s is not None and time.monotonic() - told >= silence_s:
                told = time.monotonic()
                yield {}
        reviewing = asyncio.ensure_future(self.review(call, asked))
        try:
            while not (await asyncio.wait({reviewing}, timeout=silence_s))[0]:
                yield {}
            withheld = reviewing.result()
        finally:
            reviewing.cancel()
        yield held | {number: News(held[number].job, end="content_filter") for number in withheld}

    async def review(self, call: Call, asked: Sequence[Sequence[Message]]) -> set[int]:
        """Take back what is not safe of a call that has ended; returns the numbers of those answers."""
        begun = time.monotonic()
        exchanges = [exchange(messages, said) for messages, said in zip(asked, call.said, strict=True)]
        try:
            async with asyncio.timeout(self.patience_s):
                scores = await asyncio.gather(*(self.score(one) for one in exchanges))
        except TimeoutError:
            scores = [Score(None, "out of time")]
        call.review_s = time.monotonic() - begun
        if any(score.value is None for score in scores):
            raise Refusal(500, "The answer could not be checked for safety, so it is not shown")
        withheld = {number for number, score in enumerate(scores) if score.value == 0}
        for number in withheld:
            call.said[number].withhold()
        return withheld

    async def score(self, one: Exchange) -> Score:
        """The verdict on one exchange."""
        verdict: Future[Score] = Future()
        self.waiting.put((one, verdict))
        return await asyncio.wrap_future(verdict)

    def work(self) -> None:
        """Judge what waits, for as long as the process lives."""
        while True:
            taken = [self.waiting.get()]
            while not self.waiting.empty():
                taken.append(self.waiting.get())
            wanted = [(one, verdict) for one, verdict in taken if verdict.set_running_or_notify_cancel()]
            for (_, verdict), score in zip(wanted, self.scores([one for one, _ in wanted]), strict=True):
                verdict.set_result(score)

    def scores(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """The verdicts; none where the judge fails, which the log says without repeating what was said."""
        try:
            return self.judge(exchanges)
        except Exception as error:  # those who wait must hear of it, whatever it is
            LOG.warning(
                "risk control failed: %s", error.what if isinstance(error, ThinkeryError) else repr(type(error))
            )
            return [Score(None, "the judge failed")] * len(exchanges)


def exchange(messages: Sequence[Message], said: Said) -> Exchange:
    """A conversation and what was answered, with the beginning that a last message of the assistant gave it."""
    *before, last = messages
    begun = last if last.role == "assistant" else Message("assistant", "")
    *history, question = before if last.role == "assistant" else messages
    thought = (begun.thought or "") + said.thought
    answer = begun.content + said.answer + "".join(f"\n{call.name} {call.arguments}" for call in said.calls)
    task = Task("", question.content, history=tuple(history))
    return task, Completion(thought + answer, thought=thought or None, answer=answer, closed=not said.unclosed)


def in_one(task: Task, completion: Completion) -> Exchange:
    """The exchange for a judge that is shown a single question, which then has the conversation before it too."""
    if not task.history:
        return task, completion
    return Task("", "\n\n".join(f"{one.role}: {one.content}" for one in task.messages)), completion
