"""What every engine is: prompts go in, tokens come out as they are made, completions as they finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from thinkery.core import Completion, Message, Sampling
from thinkery.errors import InputError, Stalled


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to continue it `len(seeds)` times.

    `messages` are rendered by the engine with its model's template, or with `chat_template` (Jinja) where that is
    set; `prompt` gives the tokens directly and wins over both. `seeds[i]` decides sample i and nothing else does.
    `salt` isolates prefix caches between owners. `deadline_s` counts from submission; what is unfinished then ends
    as "deadline".
    `mask(generated_tokens) -> allowed token ids or None` limits the next token, `bias(generated_tokens)` is added to
    the logits of the tokens it names. `alternatives` likeliest tokens are told beside every sampled one. `followed`
    says that a later prompt will probably begin with this one and its answer, so that both are worth remembering.
    `begun[i]`, where there is any, is what sample i has said before: it goes on from there, and its completion has all
    of it. `sampling.max_tokens` counts the whole.
    """

    seeds: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    messages: tuple[Message, ...] = ()
    prompt: tuple[int, ...] | None = None
    salt: str = ""
    deadline_s: float | None = None
    mask: Callable[[Sequence[int]], Sequence[int] | None] | None = None
    chat_template: str = ""
    bias: Callable[[Sequence[int]], Mapping[int, float]] | None = None
    alternatives: int = 0
    followed: bool = False
    begun: tuple[Completion, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InputError("a request needs at least one seed: it has one per sample")
        if self.begun and len(self.begun) != len(self.seeds):
            found = f"{len(self.begun)} beginnings, {len(self.seeds)} seeds"
            raise InputError("every sample of a request has a beginning, or none has", found=found)

    def only(self, samples: Sequence[int]) -> Request:
        """The same request for some of its samples."""
        begun = tuple(self.begun[n] for n in samples) if self.begun else ()
        return replace(self, seeds=tuple(self.seeds[n] for n in samples), begun=begun)


@dataclass(frozen=True, slots=True)
class Event:
    """News of one sample of one request: new `tokens`, and its `completion` when it has ended."""

    request: str
    sample: int
    tokens: tuple[int, ...] = ()
    completion: Completion | None = None
    prompt: tuple[int, ...] = ()
    """The rendered prompt; set on the event that carries the completion."""
    logprobs: tuple[float, ...] = ()
    """Of the new tokens, as in `Completion`."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """Beside the new token, as many as were asked for, likeliest first: each with its log-probability."""
    known: int = 0
    """Tokens of the prompt that were not computed, because an earlier request of the same salt had begun with them."""
    begun_at: float | None = None
    """When the prompt began to be read, on the clock of `time.monotonic`; None where it did not, or nobody knows."""


class Engine(Protocol):
    """Prompts → completions. One instance belongs to one thread."""

    def submit(self, request: Request) -> str:
        """Queue a request; returns its id."""
        ...

    def step(self) -> list[Event]:
        """Advance everything in flight by one token (native) or wait for news (remote)."""
        ...

    def cancel(self, id: str) -> None:
        """Drop a request; its samples end as "cancelled" in the next step's events."""
        ...

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Take new weights and forget what was cached under the old ones."""
        ...

    def release(self) -> None:
        """Free memory and connections; the engine is of no use afterwards."""
        ...


class LearningEngine(Engine, Protocol):
    """An engine that samples from weights that learn; `version` counts their updates."""

    version: int

    def bump(self, version: int) -> None:
        """The weights have changed: what is submitted from now on is sampled from the new ones."""
        ...


@runtime_checkable
class RestingEngine(LearningEngine, Protocol):
    """An engine in the learner's own process, which can make room for it."""

    def rest(self) -> None:
        """The weights are about to change: let go of what was made of them, until `bump`."""
        ...


@runtime_checkable
class FollowingEngine(LearningEngine, Protocol):
    """An engine that can sample while its weights learn, because it has a copy of them."""

    def snapshot(self, version: int) -> Any:
        """The weights as they are now; to be called by who changes them."""
        ...

    def take(self, snapshot: Any) -> None:
        """Sample from these weights from now on."""
        ...

    def interrupt(self) -> None:
        """Have whoever waits in `step` fail at once; may be called from any thread."""
        ...


@runtime_checkable
class ReadingEngine(Engine, Protocol):
    """An engine whose steps may bring no news because they compute a part of a long prompt each."""

    @property
    def reading(self) -> bool:
        """Whether a prompt is half computed."""
        ...


def generate(
    engine: Engine, requests: Sequence[Request], *, patience_s: float = 600.0
) -> Iterator[tuple[int, list[Event]]]:
    """Run requests to their end; yields (index, that request's finished events by sample), in finishing order.

    Raises Stalled when nothing was heard of any of them for `patience_s`. What is unfinished when the caller
    stops listening is cancelled.
    """
    index = {engine.submit(request): i for i, request in enumerate(requests)}
    done: dict[str, dict[int, Event]] = {id: {} for id in index}
    heard, reader = time.monotonic(), engine if isinstance(engine, ReadingEngine) else None
    try:
        while index:
            for event in engine.step():
                if event.request not in index:
                    continue
                heard = time.monotonic()
                if event.completion is None:
                    continue
                done[event.request][event.sample] = event
                if len(done[event.request]) == len(requests[index[event.request]].seeds):
                    finished = done.pop(event.request)
                    yield index.pop(event.request), [finished[s] for s in sorted(finished)]
                    heard = time.monotonic()
            if reader is not None and reader.reading:
                heard = time.monotonic()
            if time.monotonic() - heard > patience_s:
                raise Stalled(
                    f"no news for {patience_s:g} s from the engine",
                    found=f"{len(index)} unfinished requests, the first: {missing(index, done, requests)}",
                    hint="look at the engine's or the endpoint's log; a retry continues from the last checkpoint",
                )
    finally:
        for id in index:
            engine.cancel(id)


def missing(index: Mapping[str, int], done: Mapping[str, Mapping[int, Event]], requests: Sequence[Request]) -> str:
    """The first unfinished request and which of its samples are out."""
    id, i = next(iter(index.items()))
    out = [s for s in range(len(requests[i].seeds)) if s not in done[id]]
    return f"{id} (number {i} of {len(requests)}), samples {out}"
