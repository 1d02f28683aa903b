"""vLLM as an engine that serves: weights that stay as they are, and tokens as they come.

    with open_stream(folder, tokenizer, VllmConfig(python="/opt/vllm/bin/python")) as engine: …  # a server of its own
    with open_stream(folder, tokenizer, VllmConfig()) as engine: …                               # in this process

What a request reused of earlier ones is what vLLM says it did, in whole units of 64 tokens; a server of its own says so
at the end of an answer, so that one which was cut has no hit. Log-probabilities are those after temperature and top-p.
Not handled: masks, biases, stop strings.
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from thinkery.core import Completion, Finish
from thinkery.engine.base import Event, Request
from thinkery.engine.vllm import VllmConfig
from thinkery.engine.vllm_local import Local
from thinkery.engine.vllm_server import MODEL, Server
from thinkery.errors import InputError, RunFailed, UsageError
from thinkery.model.tokenizer import Tokenizer

UNIT = 64
"""Tokens of a unit of the prefix cache."""

TICK_S = 0.01
"""How long a step waits for news of a server: new requests are heard in between."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What has come of one sample since the last: tokens, each with its log-probability and the likeliest ones."""

    id: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    known: int = 0
    """Tokens of the prompt that vLLM says it had in its cache."""
    finish: Finish | None = None


class Stream(Protocol):
    """A running vLLM that tells tokens as they come."""

    def begin(self, id: str, seed: int, request: Request, stops: list[int]) -> None:
        """Queue one sample."""
        ...

    def pieces(self) -> list[Piece]:
        """Work or wait for a while; what has come since."""
        ...

    def abort(self, id: str) -> None:
        """Drop a sample; nothing is heard of it any more."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(slots=True)
class Sample:
    """One sample under way."""

    request: Request
    prompt: tuple[int, ...]
    opened: bool
    deadline: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@contextmanager
def open_stream(folder: Path, tokenizer: Tokenizer, cfg: VllmConfig) -> Iterator[StreamEngine]:
    """vLLM on a model folder for as long as the block lasts."""
    with ExitStack() as stack:
        if cfg.python:
            place = Path(tempfile.mkdtemp(prefix="thinkery-vllm-"))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            backend: Stream = StreamServer(linked(folder, place), cfg)
        else:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # an engine process may have no children
            backend = StreamLocal(folder, cfg)
        stack.callback(backend.close)
        yield StreamEngine(tokenizer, cfg, backend)


def linked(model: Path, folder: Path) -> Path:
    """A folder with a model's files in which there is room for a log."""
    for path in model.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    return folder


class StreamEngine:
    """Samples with vLLM and tells every token as it comes."""

    def __init__(self, tokenizer: Tokenizer, cfg: VllmConfig, backend: Stream) -> None:
        self.tokenizer, self.cfg, self.backend = tokenizer, cfg, backend
        self.stops = sorted(tokenizer.eos_ids)
        self.submitted = 0
        self.samples: dict[tuple[str, int], Sample] = {}
        self.news: list[Event] = []

    def submit(self, request: Request) -> str:
        """Queue a request; InputError for what vLLM is not asked, and for a prompt without room."""
        if request.sampling.stop or request.mask or request.bias:
            raise InputError("vLLM is asked without stop strings, masks and biases", hint="use the built-in engine")
        prompt, opened = request.prompt, False
        if prompt is None:
            prompt, opened = self.tokenizer.prompt(request.messages, template=request.chat_template)
        limit = min(request.sampling.max_tokens, self.cfg.max_len - len(prompt))
        if limit < 1 or not prompt:
            found = f"{len(prompt)} prompt tokens, max_len {self.cfg.max_len}"
            raise InputError("the prompt leaves no room for a completion", found=found, hint="raise max_len")
        self.submitted += 1
        id = f"v{self.submitted}"
        deadline = math.inf if request.deadline_s is None else time.monotonic() + request.deadline_s
        asked = replace(request, prompt=prompt, sampling=replace(request.sampling, max_tokens=limit))
        for number, seed in enumerate(request.seeds):
            self.samples[id, number] = Sample(asked, prompt, opened, deadline)
            self.backend.begin(f"{id}/{number}", seed % 2**31, asked, self.stops)
        return id

    def step(self) -> list[Event]:
        """News since the last call, after some work of vLLM's."""
        now = time.monotonic()
        for place in [place for place, sample in self.samples.items() if now > sample.deadline]:
            self.drop(place, "deadline")
        pieces = self.backend.pieces() if self.samples else []
        news, self.news = self.news, []
        return news + [event for piece in pieces for event in self.events(piece)]

    def cancel(self, id: str) -> None:
        """Drop a request; its samples end as "cancelled" in the next step's events."""
        for place in [place for place in self.samples if place[0] == id]:
            self.drop(place, "cancelled")

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Always raises: these weights stay as they are."""
        raise UsageError("the weights of an engine that serves cannot be changed", hint="engine/vllm.py follows them")

    def release(self) -> None:
        """Drop what is in flight; vLLM itself ends with `open_stream`."""
        for place in list(self.samples):
            self.drop(place, "cancelled")

    def drop(self, place: tuple[str, int], finish: Finish) -> None:
        """End a sample."""
        sample = self.samples.pop(place)
        self.backend.abort("{}/{}".format(*place))
        self.news.append(Event(*place, completion=self.completion(sample, finish), prompt=sample.prompt))

    def events(self, piece: Piece) -> Iterator[Event]:
        """A piece token by token; the last one carries the completion where the sample has ended."""
        id, _, number = piece.id.partition("/")
        place = (id, int(number))
        if (sample := self.samples.get(place)) is None:
            return
        known = min(piece.known, len(sample.prompt) - 1) // UNIT * UNIT
        sample.tokens += piece.tokens
        sample.logprobs += piece.logprobs
        wanted, likeliest = sample.request.alternatives, piece.alternatives or [()] * len(piece.tokens)
        told = [
            Event(*place, (token,), logprobs=(logprob,), alternatives=beside[:wanted], known=known)
            for token, logprob, beside in zip(piece.tokens, piece.logprobs, likeliest, strict=True)
        ]
        if piece.finish is not None:
            del self.samples[place]
            last = told.pop() if told else Event(*place, known=known)
            told.append(replace(last, completion=self.completion(sample, piece.finish), prompt=sample.prompt))
        yield from told

    def completion(self, sample: Sample, finish: Finish) -> Completion:
        """What a sample has said."""
        return self.tokenizer.completion(sample.tokens, sample.logprobs, finish, opened=sample.opened)


class StreamLocal(Local):
    """vLLM in this process."""

    def begin(self, id: str, seed: int, request: Request, stops: list[int]) -> None:
        """Queue one sample."""
        sampling = request.sampling
        settings = self.vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=seed,
            logprobs=request.alternatives,
            stop_token_ids=stops,
            detokenize=False,
            output_kind=self.vllm.sampling_params.RequestOutputKind.DELTA,
        )
        salt = {"cache_salt": request.salt} if request.salt else {}
        prompt = {"prompt_token_ids": list(request.prompt or ()), **salt}
        self.llm.llm_engine.add_request(id, prompt, settings)

    def pieces(self) -> list[Piece]:
        """One step of vLLM."""
        return [self.piece(output) for output in self.llm.llm_engine.step()]

    def piece(self, output: Any) -> Piece:
        """What one request of one sample has said since."""
        said = output.outputs[0]
        tokens, found = tuple(said.token_ids), said.logprobs or ()
        return Piece(
            output.request_id,
            tokens,
            tuple(likely[token].logprob for token, likely in zip(tokens, found, strict=True)),
            tuple(ranked((id, one.logprob) for id, one in likely.items()) for likely in found),
            known=output.num_cached_tokens or 0,
            finish=finish_of(said.finish_reason) if output.finished else None,
        )


class StreamServer(Server):
    """vLLM as a server of its own, asked for streams."""

    def __init__(self, folder: Path, cfg: VllmConfig) -> None:
        arguments = ("--enable-prompt-tokens-details", *cfg.arguments)
        self.heard: queue.SimpleQueue[Piece | Exception] = queue.SimpleQueue()
        super().__init__(folder, cfg.model_copy(update={"arguments": arguments}))

    def begin(self, id: str, seed: int, request: Request, stops: list[int]) -> None:
        """Queue one sample."""
        sampling = request.sampling
        salt = {"cache_salt": request.salt} if request.salt else {}
        body = {
            "model": MODEL,
            "prompt": list(request.prompt or ()),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
            "logprobs": request.alternatives,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stop_token_ids": stops,
            "stream": True,
            "stream_options": {"include_usage": True},
            **salt,
        }
        self.wanted.add(id)
        self.threads.submit(self.follow, id, body)

    def follow(self, id: str, body: dict[str, Any]) -> None:
        """What a thread does for a sample: ask, and tell what comes until it ends or is not wanted any more."""
        try:
            if id in self.wanted:
                with self.client.stream("POST", "/v1/completions", json=body) as reply:
                    if reply.status_code != 200:
                        found = f"status {reply.status_code}: {reply.read().decode(errors='replace')[:500]}"
                        raise RunFailed("vLLM's server refuses a request", found=found)
                    self.tell(id, reply.iter_lines())
        except Exception as error:  # raised again by pieces, in the caller's thread
            if id in self.wanted:
                self.heard.put(error)

    def tell(self, id: str, lines: Iterator[str]) -> None:
        """Pass on what a stream says; its end waits for the usage, which comes last."""
        end: Piece | None = None
        for line in lines:
            if id not in self.wanted:
                return
            if not line.startswith("data: {"):
                continue
            data = json.loads(line.removeprefix("data: "))
            if "error" in data:
                raise RunFailed("vLLM's server ends a stream", found=str(data["error"])[:500])
            for choice in data["choices"]:
                piece = read_piece(id, choice)
                if piece.finish is None:
                    self.heard.put(piece)
                else:
                    end = piece
            if end is not None and data.get("usage"):
                details = data["usage"].get("prompt_tokens_details") or {}
                self.heard.put(replace(end, known=details.get("cached_tokens") or 0))
                return
        raise RunFailed("vLLM's server ended a stream before its end")

    def pieces(self) -> list[Piece]:
        """What has come since the last call, waiting a moment for something."""
        found: list[Piece] = []
        while self.wanted:
            try:
                news = self.heard.get(block=not found, timeout=TICK_S)
            except queue.Empty:
                break
            if isinstance(news, Exception):
                raise news
            if news.id in self.wanted:
                found.append(news)
                if news.finish is not None:
                    self.wanted.discard(news.id)
        return found


def read_piece(id: str, choice: dict[str, Any]) -> Piece:
    """A choice of a chunk; its tokens are named `token_id:7` beside their log-probabilities."""
    marks = choice["logprobs"] or {"token_logprobs": [], "top_logprobs": []}
    likeliest = tuple(
        ranked((int(name.partition(":")[2]), p) for name, p in one.items()) for one in marks["top_logprobs"]
    )
    return Piece(
        id,
        tuple(choice["token_ids"]),
        tuple(marks["token_logprobs"]),
        likeliest,
        finish=finish_of(choice["finish_reason"]),
    )


def ranked(marks: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Tokens with their log-probabilities, likeliest first."""
    return tuple(sorted(marks, key=lambda mark: -mark[1]))


def finish_of(reason: str | None) -> Finish | None:
    """How vLLM says that a sample has ended; raises RunFailed for what is no end of an answer."""
    if reason in (None, "stop", "length"):
        return reason
    raise RunFailed("vLLM ended a sample", found=reason)
