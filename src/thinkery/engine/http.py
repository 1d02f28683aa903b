"""Any OpenAI-style chat endpoint as an engine: messages go out, texts come back, without tokens or log-probabilities.

Every sample is a request of its own, sent by one of `concurrency` threads; what the network or the server does
wrong for a while is tried again. The endpoint's own clock and batch decide the samples: a seed is only passed on.
"""

from __future__ import annotations

import math
import os
import queue
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import Field

from thinkery import chat
from thinkery.config import Config
from thinkery.core import Completion
from thinkery.engine.base import Event, Request
from thinkery.engine.replies import Replies
from thinkery.errors import EnvironmentLacks, InputError, RunFailed, UsageError

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes worth another try."""


class HttpConfig(Config):
    """Where a remote model is, and what may be spent on it."""

    url: str
    """Address before "/chat/completions", such as "https://api.deepseek.com/v1"."""
    model: str
    """Name of the model, as the endpoint knows it."""
    key: str = ""
    """Name of the environment variable that holds the API key; "" sends none."""
    opens_thought: bool = False
    """Whether the endpoint's template opens the thought, so that texts begin inside it."""
    concurrency: int = Field(default=16, ge=1, json_schema_extra={"key": False})
    """Requests under way at the same time."""
    timeout_s: float = Field(default=600.0, gt=0, json_schema_extra={"key": False})
    """How long one request may stay without an answer."""
    tries: int = Field(default=6, ge=1, json_schema_extra={"key": False})
    """How often a request is sent before it counts as failed."""
    backoff_s: float = Field(default=1.0, ge=0, json_schema_extra={"key": False})
    """Pause before the second try; doubles with every further one, up to a minute."""
    price_in: float = Field(default=0.0, ge=0, json_schema_extra={"key": False})
    """Price of a million prompt tokens, in the currency of `max_cost`."""
    price_out: float = Field(default=0.0, ge=0, json_schema_extra={"key": False})
    """Price of a million completion tokens."""
    max_cost: float | None = Field(default=None, ge=0, json_schema_extra={"key": False})
    """What may be spent in all; a request that could exceed it is not sent."""
    replies: str = Field(default="", json_schema_extra={"key": False})
    """File that keeps every reply, from which the same request with the same seed is answered at no cost; "" keeps
    none."""


@dataclass(slots=True)
class Usage:
    """What was consumed so far; where the endpoint does not say, its upper bound is counted."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """One sample to ask for."""

    id: str
    sample: int
    request: Request
    deadline: float
    """On the clock of `time.monotonic`; infinite where there is none."""

    def bounds(self) -> tuple[int, int]:
        """The most tokens of prompt and completion: a token is at least a byte, and a template adds a few."""
        prompt = 64 + sum(len(message.content.encode()) + 16 for message in self.request.messages)
        return prompt, self.request.sampling.max_tokens


class HttpEngine:
    """A remote model, until `release`; what could not be had of it in the end is raised by `step`."""

    def __init__(self, cfg: HttpConfig) -> None:
        self.cfg, self.key, self.version = cfg, key_of(cfg), 0
        self.purse = Purse(cfg)
        self.replies = Replies(cfg.replies) if cfg.replies else None
        self.client = httpx.Client(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=cfg.timeout_s,
            limits=httpx.Limits(max_connections=cfg.concurrency),
        )
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.news: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        """What threads tell; None wakes up who waits."""
        self.pending: set[tuple[str, int]] = set()
        self.failure: Exception | None = None
        """What will be raised by step; until then nothing more is asked."""
        self.under_way, self.counting = 0, threading.Lock()
        """Samples that threads ask for now."""
        self.closing = threading.Event()
        self.submitted = 0
        for n in range(cfg.concurrency):
            threading.Thread(target=self.work, name=f"endpoint-{n}", daemon=True).start()

    @property
    def usage(self) -> Usage:
        """What was consumed so far."""
        return self.purse.usage

    def submit(self, request: Request) -> str:
        """Queue a request; InputError for tokens, masks, templates and beginnings, which endpoints do not take."""
        if request.prompt is not None or request.mask is not None or request.chat_template or request.begun:
            what = "an endpoint takes messages, neither prompt tokens nor masks, templates or beginnings"
            raise InputError(what, where=self.cfg.url)
        self.submitted += 1
        id = f"h{self.submitted}"
        deadline = math.inf if request.deadline_s is None else time.monotonic() + request.deadline_s
        for sample in range(len(request.seeds)):
            self.pending.add((id, sample))
            self.jobs.put(Job(id, sample, request, deadline))
        return id

    def step(self) -> list[Event]:
        """News since the last call, waiting up to a second for some; after a failure nothing more is asked, and it is
        raised once what was under way, and is paid for, has come and is told."""
        events: list[Event] = []
        over = True
        while self.pending:
            over = self.failure is not None and not self.under_way
            try:
                news = self.news.get(block=not events and not over, timeout=1.0)
            except queue.Empty:
                break
            if news and (news.request, news.sample) in self.pending:
                self.pending.discard((news.request, news.sample))
                events.append(news)
        if self.failure and not events and over:
            failure, self.failure = self.failure, None
            raise failure
        return events

    def cancel(self, id: str) -> None:
        """Drop a request; what is already under way is paid for but not listened to."""
        for _, sample in [job for job in self.pending if job[0] == id]:
            self.news.put(Event(id, sample, completion=Completion("", finish="cancelled")))

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Always raises: the weights are the endpoint's."""
        raise UsageError("the weights of an endpoint cannot be changed", where=self.cfg.url)

    def release(self) -> None:
        """Close connections; a thread ends when the answer it waits for comes or fails."""
        self.closing.set()
        self.client.close()
        if self.replies:
            self.replies.close()

    def work(self) -> None:
        """What each thread does: take a sample, ask for it, tell."""
        while not self.closing.is_set():
            try:
                job = self.jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            with self.counting:
                if (job.id, job.sample) not in self.pending or self.failure:
                    continue
                self.under_way += 1
            try:
                self.news.put(Event(job.id, job.sample, completion=self.reply(job)))
            except Exception as error:  # raised again by step, in the caller's thread
                self.failure = self.failure or error
            finally:
                with self.counting:
                    self.under_way -= 1
                if self.failure:
                    self.news.put(None)

    def reply(self, job: Job) -> Completion:
        """The completion of one sample, kept or asked for."""
        if self.replies is None:
            return self.ask(job)
        asked = {"url": self.cfg.url, "opens_thought": self.cfg.opens_thought, **self.body(job)}
        if kept := self.replies.find(asked):
            return kept
        completion = self.ask(job)
        if completion.finish != "deadline":
            try:
                self.replies.keep(asked, completion)
            except Exception as error:  # it is paid for and told all the same
                self.failure = self.failure or error
        return completion

    def ask(self, job: Job) -> Completion:
        """The completion of one sample, after as many tries as it takes and is allowed."""
        jitter = random.Random(job.request.seeds[job.sample])
        failure = Failure("")
        for attempt in range(self.cfg.tries):
            if time.monotonic() > job.deadline or self.closing.is_set():
                break
            try:
                return self.attempt(job)
            except Failure as error:
                failure = error
            if not failure.passing:
                break
            if attempt + 1 < self.cfg.tries:
                self.purse.retried()
                pause_s = min(60.0, self.cfg.backoff_s * 2**attempt) * jitter.uniform(0.5, 1.0)
                self.closing.wait(min(max(pause_s, failure.after_s), job.deadline - time.monotonic()))
        if time.monotonic() > job.deadline:
            return Completion("", finish="deadline")
        raise RunFailed(
            f"no answer for sample {job.sample} of request {job.id}",
            where=self.cfg.url,
            found=self.without_key(str(failure)),
            hint="check the endpoint's url, model, key and limits",
        )

    def attempt(self, job: Job) -> Completion:
        """Ask once; raises Failure."""
        price = self.purse.reserve(*job.bounds())
        used = job.bounds()  # assumed spent unless the endpoint says otherwise
        try:
            reply = self.client.post(
                f"{self.cfg.url.rstrip('/')}/chat/completions",
                json=self.body(job),
                timeout=min(self.cfg.timeout_s, max(0.1, job.deadline - time.monotonic())),
            )
            if reply.status_code != 200:
                used = (0, 0)
                raise Failure(
                    f"status {reply.status_code}: {reply.text[:300]}",
                    passing=reply.status_code in PASSING,
                    after_s=retry_after(reply),
                )
            data = parsed(reply)
            used = reported(data) or used
            return read(data, self.cfg.opens_thought)
        except httpx.TransportError as error:
            used = (0, 0) if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else used
            raise Failure(f"{type(error).__name__}: {error}") from error
        finally:
            self.purse.settle(price, *used)

    def body(self, job: Job) -> dict[str, Any]:
        """The JSON of one request."""
        sampling = job.request.sampling
        optional = {"stop": list(sampling.stop), "top_k": sampling.top_k}
        return {
            "model": self.cfg.model,
            "messages": [{"role": m.role, "content": m.content} for m in job.request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": job.request.seeds[job.sample] % 2**31,
            **{name: value for name, value in optional.items() if value},
        }

    def without_key(self, text: str) -> str:
        """Text fit to be shown: an endpoint may repeat the key in its error."""
        return text.replace(self.key, "…") if self.key else text


def key_of(cfg: HttpConfig) -> str:
    """The API key, from the environment."""
    if not cfg.key:
        return ""
    if key := os.environ.get(cfg.key):
        return key
    raise EnvironmentLacks(f"no API key in the environment variable {cfg.key}", hint=f"export {cfg.key}=…")


class Purse:
    """Keeps count, and holds requests back that could exceed `max_cost`."""

    def __init__(self, cfg: HttpConfig) -> None:
        self.cfg, self.usage = cfg, Usage()
        self.reserved, self.under_way = 0.0, 0
        self.changed = threading.Condition()

    def price(self, prompt: int, completion: int) -> float:
        """What so many tokens cost."""
        return (prompt * self.cfg.price_in + completion * self.cfg.price_out) / 1e6

    def reserve(self, prompt: int, completion: int) -> float:
        """Set aside what a request may cost, waiting while others may still give back; raises RunFailed."""
        price, cap = self.price(prompt, completion), self.cfg.max_cost
        with self.changed:
            while cap is not None and self.usage.cost + self.reserved + price > cap:
                if not self.under_way:
                    raise RunFailed(
                        "the endpoint's cost cap is reached",
                        where=self.cfg.url,
                        found=f"{self.usage.cost:.4f} spent, the next request may cost {price:.4f}, max_cost is {cap}",
                        hint="raise max_cost, or lower max_tokens or the number of samples",
                    )
                self.changed.wait(1.0)  # whoever raised gave nothing back
            self.reserved += price
            self.under_way += 1
        return price

    def settle(self, price: float, prompt: int, completion: int) -> None:
        """Replace what was set aside by what was used."""
        with self.changed:
            self.under_way -= 1
            self.reserved = self.reserved - price if self.under_way else 0.0  # no rounding is left behind
            self.usage.requests += 1
            self.usage.prompt_tokens += prompt
            self.usage.completion_tokens += completion
            self.usage.cost += self.price(prompt, completion)
            self.changed.notify_all()

    def retried(self) -> None:
        """Count one more retry."""
        with self.changed:
            self.usage.retries += 1


class Failure(Exception):
    """One try that failed; `passing` when another may succeed, not before `after_s`."""

    def __init__(self, problem: str, *, passing: bool = True, after_s: float = 0.0) -> None:
        super().__init__(problem)
        self.passing, self.after_s = passing, after_s


def retry_after(reply: httpx.Response) -> float:
    """Seconds the endpoint asks to wait, at most a minute; a date is not understood and counts as 0."""
    text = reply.headers.get("retry-after", "")
    return min(60.0, float(text)) if text.replace(".", "", 1).isdigit() else 0.0


def parsed(reply: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer; raises Failure."""
    try:
        data = reply.json()
    except ValueError as error:
        raise Failure(f"not JSON: {reply.text[:300]}") from error
    if not isinstance(data, dict):
        raise Failure(f"not a JSON object: {reply.text[:300]}")
    return data


def reported(data: dict[str, Any]) -> tuple[int, int] | None:
    """Prompt and completion tokens as the endpoint counts them, None when it does not."""
    usage = data.get("usage")
    prompt, completion = (usage.get(f"{kind}_tokens") for kind in ("prompt", "completion")) if usage else (None, None)
    return (prompt, completion) if isinstance(prompt, int) and isinstance(completion, int) else None


def read(data: dict[str, Any], opens_thought: bool) -> Completion:
    """The completion in a chat answer, its thought from `reasoning_content` or from the text; raises Failure."""
    try:
        choice = data["choices"][0]
        message = choice["message"]
        content, reasoning = message.get("content") or "", message.get("reasoning_content") or ""
        finish = "length" if choice.get("finish_reason") == "length" else "stop"
        if not reasoning:
            parts = chat.split(content, opened=opens_thought)
            return Completion(content, (), (), finish, parts.thought, parts.answer, parts.closed)
    except (LookupError, TypeError, AttributeError) as error:
        raise Failure(f"not a chat completion: {str(data)[:300]}") from error
    closed = bool(content) or finish == "stop"
    text = f"{chat.OPEN}\n{reasoning}" + (f"\n{chat.CLOSE}\n\n{content}" if closed else "")
    return Completion(text, (), (), finish, reasoning.strip(), content.strip(), closed)
