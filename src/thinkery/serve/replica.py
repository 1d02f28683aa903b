"""A replica: one process that owns engines and batches what it is asked, between any two steps.

It is sent `Job` and `Cancel` and says lists of `News`, one list per step. It says `Load` when the first model is open,
or the error by which it could not be opened, and opens every other when it is first asked for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from thinkery.errors import ThinkeryError
from thinkery.process import settle, start_process, work
from thinkery.serve.config import EngineName, Vllm
from thinkery.serve.jobs import End, Job, Load, News

if TYPE_CHECKING:
    from thinkery.engine.base import Engine, Event
    from thinkery.model.tokenizer import Tokenizer
    from thinkery.serve.choice import Choice, Guide
    from thinkery.serve.scoring import Scoring


PREFILL = 512
"""New tokens of prompts in one step: who came first has its first token before the last have theirs. In the same step
as many are read of a prompt whose own log-probabilities are asked for."""


LOOK_S = 0.1
"""How often a busy replica looks how full its memory is."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is served: its name, where it is, and another chat template where one was given."""

    name: str
    folder: Path
    template: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a replica runs its engines."""

    max_batch: int
    kv_memory: float
    """GiB of each model."""
    max_len: int | None
    deterministic: bool
    threads: int | None
    dtype: Literal["fastest", "float32", "bfloat16"]
    quantization: Literal["none", "int8"]
    engine: EngineName
    vllm: Vllm


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is ready."""

    engine: Engine
    tokenizer: Tokenizer


def start_replica(models: Mapping[str, Served], running: Running) -> tuple[Connection, BaseProcess]:
    """A process of its own, and the connection to it."""
    return start_process(_main, dict(models), running, threads=running.threads)


def _main(connection: Connection, models: Mapping[str, Served], running: Running) -> None:
    """Open the first model, say so, or why it cannot be, and work until the end; an engine that raises takes its
    replica with it."""
    with ExitStack() as opened:
        desk = Desk(connection, lambda name: open_served(models[name], running, opened))
        try:
            desk.opened(next(iter(models)))
        except ThinkeryError as error:
            connection.send(error)
            return
        settle()
        connection.send(desk.loaded)
        work(connection, desk)


def open_served(model: Served, running: Running, opened: ExitStack) -> Opened:
    """The engine of a model, for as long as `opened` lasts."""
    return (open_vllm if running.engine == "vllm" else open_native)(model, running, opened)


def open_native(model: Served, running: Running, opened: ExitStack) -> Opened:
    """The built-in engine."""
    from thinkery.engine import EngineConfig, open_engine
    from thinkery.model.hf import accelerator, load_model

    network, tokenizer = load_model(model.folder, device=accelerator())
    cfg = EngineConfig(
        max_batch=running.max_batch,
        kv_memory=running.kv_memory,
        prefill=PREFILL,
        max_len=running.max_len,
        deterministic=running.deterministic,
        dtype="float32" if running.deterministic else running.dtype,
        quantization=running.quantization,
    )
    return Opened(opened.enter_context(open_engine(network, tokenizer, cfg)), tokenizer)


def open_vllm(model: Served, running: Running, opened: ExitStack) -> Opened:
    """vLLM."""
    from thinkery.engine.vllm import VllmConfig
    from thinkery.engine.vllm_stream import open_stream
    from thinkery.model.tokenizer import Tokenizer
    from thinkery.serve.offers import context_of

    tokenizer = Tokenizer.load(model.folder)
    cfg = VllmConfig(
        python=running.vllm.python,
        arguments=running.vllm.arguments,
        dtype="float32" if running.dtype == "float32" else "bfloat16",
        max_batch=running.max_batch,
        max_len=context_of(model.folder, running.max_len),
        kv_memory=running.kv_memory,
        patience_s=running.vllm.patience_s,
    )
    return Opened(opened.enter_context(open_stream(model.folder, tokenizer, cfg)), tokenizer)


class Desk:
    """The jobs of one replica."""

    def __init__(self, connection: Connection, open_model: Callable[[str], Opened]) -> None:
        self.connection, self.open_model = connection, open_model
        self.models: dict[str, Opened] = {}
        self.under_way: dict[tuple[str, str], Choice] = {}
        """By model and the engine's id of the request."""
        self.arrived: dict[str, float] = {}
        """When jobs came of which nothing was told yet."""
        self.scoring: deque[Scoring] = deque()
        """Jobs whose prompts are scored first, one after the other."""
        self.ending: set[str] = set()
        """Models whose engines still hold what has ended here."""
        self.loaded, self.loaded_at = Load(0.0), 0.0
        """What was told last of the memory in use, and when it was looked at."""

    @property
    def busy(self) -> bool:
        """Whether any engine has something to do."""
        return bool(self.under_way or self.ending or self.scoring)

    def take(self, job: Job) -> None:
        """Begin a job; what is wrong with it is its news."""
        self.arrived[job.id] = time.monotonic()
        try:
            if job.score_prompt:
                self.take_prompt(job)
            else:
                self.submit(job)
        except ThinkeryError as error:
            self.arrived.pop(job.id, None)
            self.connection.send([News(job.id, problem=error.what)])

    def take_prompt(self, job: Job) -> None:
        """Queue a job whose prompt is scored first."""
        from thinkery.serve.scoring import Scoring

        self.scoring.append(Scoring(job, self.opened(job.model), self.arrived[job.id]))

    def submit(self, job: Job) -> None:
        """Have a job's engine begin it."""
        from thinkery.serve.choice import Choice

        model = self.opened(job.model)
        job = fitting(job, model.engine)
        choice = Choice(job, model.tokenizer, guide_of(job, model.tokenizer))
        self.under_way[job.model, model.engine.submit(choice.request())] = choice

    def opened(self, name: str) -> Opened:
        """A model, opened when it is first needed."""
        if name not in self.models:
            self.models[name] = self.open_model(name)
        return self.models[name]

    def cancel(self, job: str) -> None:
        """Stop a job, which then ends as "cancelled"."""
        for one in [one for one in self.scoring if one.job.id == job]:
            self.end(one, "cancelled")
        for (model, id), choice in self.under_way.items():
            if choice.job.id == job:
                self.models[model].engine.cancel(id)

    def advance(self) -> None:
        """One step of every engine that has something to do, and the next part of a prompt to score."""
        self.score()
        busy = {*self.ending, *(model for model, _ in self.under_way)}
        self.ending.clear()
        for name in busy:
            now = time.monotonic()
            news = [self.news(name, event, now) for event in self.models[name].engine.step()]
            if heard := [one for one in news if one is not None]:
                self.connection.send(heard)
        self.tell_load()

    def score(self) -> None:
        """Read on in the first prompt that is to be scored; once it is, say so and begin its answer."""
        for late in [one for one in self.scoring if time.monotonic() > one.deadline]:
            self.end(late, "deadline")
        if not self.scoring:
            return
        first = self.scoring[0]
        first.advance(PREFILL)
        if first.complete:
            self.scoring.popleft()
            self.arrived.pop(first.job.id)
            self.answer(first)

    def answer(self, scored: Scoring) -> None:
        """Tell what was found of a prompt, and go on with its answer where there is to be one."""
        news = scored.news
        self.connection.send([news])
        try:
            if news.end is None:
                self.submit(scored.left)
        except ThinkeryError as error:
            self.connection.send([News(scored.job.id, problem=error.what)])

    def end(self, scoring: Scoring, why: End) -> None:
        """Give up a prompt that is not completely scored."""
        self.scoring.remove(scoring)
        self.arrived.pop(scoring.job.id)
        self.connection.send([News(scoring.job.id, end=why)])

    def tell_load(self) -> None:
        """Tell how full the memory is, when that has changed by more than a hundredth; looks now and then."""
        from thinkery.engine import NativeEngine
        from thinkery.engine.native.usage import cache_usage

        now = time.monotonic()
        if self.busy and now - self.loaded_at < LOOK_S:
            return
        self.loaded_at = now
        engines = [model.engine for model in self.models.values()]
        load = Load(max((cache_usage(one) for one in engines if isinstance(one, NativeEngine)), default=0.0))
        if abs(load.cache - self.loaded.cache) > 0.01:
            self.loaded = load
            self.connection.send(load)

    def news(self, model: str, event: Event, now: float) -> News | None:
        """What an event means for its job; None for one that has ended before its engine knew."""
        choice = self.under_way.get((model, event.request))
        if choice is None:
            return None
        arrived = self.arrived.pop(choice.job.id, None)
        begun = now if event.begun_at is None else event.begun_at
        news = choice.take(event, queued_s=None if arrived is None else begun - arrived)
        if choice.job.score_prompt:
            news = news._replace(hit=0)  # all of it was computed to be scored, though for the answer it was known then
        if news.end is not None:
            del self.under_way[model, event.request]
            if event.completion is None:
                self.models[model].engine.cancel(event.request)
                self.ending.add(model)
        return news


def fitting(job: Job, engine: Engine) -> Job:
    """A job of no more tokens than its engine has memory for, as far as there is any room."""
    from thinkery.engine import NativeEngine

    if not isinstance(engine, NativeEngine):
        return job
    most = max(1, engine.runner.cache_tokens - len(job.prompt))
    return replace(job, sampling=replace(job.sampling, max_tokens=min(job.sampling.max_tokens, most)))


def guide_of(job: Job, tokenizer: Tokenizer) -> Guide | None:
    """The grammar of a job, at its beginning."""
    if not job.grammar:
        return None
    from thinkery.serve.grammar import Guide

    return Guide(job.grammar, tokenizer)
