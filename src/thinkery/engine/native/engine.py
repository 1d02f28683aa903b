"""Continuous batching: every step gives each running sample one token; samples join and leave between steps."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thinkery import chat
from thinkery.core import Sampling
from thinkery.engine.base import Event, Request
from thinkery.engine.native.packed import PackedTransformer
from thinkery.engine.native.runner import Network, Reading, Runner, Sampled
from thinkery.engine.native.sampler import draw, uniforms
from thinkery.engine.native.scheduler import Scheduler
from thinkery.engine.native.sequence import Prompt, Sample, StopSearch
from thinkery.engine.native.steering import biased, note_alternatives
from thinkery.errors import InputError, NotFinite, RunFailed
from thinkery.model.tokenizer import Tokenizer


class NativeEngine:
    """Samples from a network on this machine; `open_engine` makes one.

    The same request and seed give the same sample whatever else is in flight, except where a draw falls within
    rounding of the border between two tokens; with a runner of fixed shapes there is no exception. `learner` is
    the network whose weights count, `network` the one sampled from: the same, or a copy in another format.
    """

    def __init__(
        self,
        learner: Network,
        network: Sampled,
        runner: Runner,
        tokenizer: Tokenizer,
        *,
        max_batch: int,
        prefill: int,
        max_len: int,
        version: int = 0,
    ) -> None:
        self.learner, self.network, self.runner = learner, network, runner
        self.tokenizer, self.eos_ids = tokenizer, tokenizer.eos_ids
        self.max_len, self.version = max_len, version
        self.scheduler = Scheduler(max_batch, runner.cache_tokens, prefill)
        self.parameters = tuple(learner.parameters())
        self.submitted, self.changes = 0, changes(self.parameters)
        self.full: list[Sample] = []
        """Samples that had begun elsewhere and have no room to go on."""
        self.forgets = False
        """Whether, in this step, a text has waited for a beginning that was then not remembered."""

    def submit(self, request: Request) -> str:
        """Queue a request; raises InputError when prompt and completion cannot fit, RunFailed after a missed `bump`."""
        self.require_known_weights()
        tokens, opened = self.rendered(request)
        limit = min(request.sampling.max_tokens, self.max_len - len(tokens))
        self.require_room(len(tokens), limit)
        self.submitted += 1
        deadline = math.inf if request.deadline_s is None else time.monotonic() + request.deadline_s
        prompt = Prompt(f"r{self.submitted}", request, tokens, opened, limit, deadline)
        stop = request.sampling.stop
        prompt.waiting = deque(
            Sample(prompt, number, seed, StopSearch(self.tokenizer, stop) if stop else None, self.version)
            for number, seed in enumerate(request.seeds)
        )
        for sample, said in zip(prompt.waiting, request.begun, strict=False):
            sample.begin_with(said)
        self.full += [sample for sample in prompt.waiting if len(sample.tokens) >= limit]
        prompt.waiting = deque(sample for sample in prompt.waiting if len(sample.tokens) < limit)
        if prompt.waiting:
            self.scheduler.queue.append(prompt)
        return prompt.id

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One token for everything in flight, after admitting what there is room for."""
        events = [self.event(sample) for sample in (*self.end_full(), *self.scheduler.end_overdue(time.monotonic()))]
        self.scheduler.preempt()
        self.retire()
        running = list(self.scheduler.rows)
        readings: list[Reading] = []
        self.forgets = False
        arrivals = self.scheduler.admit(partial(self.take, readings))
        rows = self.scheduler.rows
        if not running and (rows or readings):
            self.runner.clear()
        if rows:
            self.runner.make_room(self.scheduler.room, self.unplaced)
        self.runner.read(readings)
        if not rows:
            return events
        tokens, logprobs = self.next_tokens(rows, self.hidden(running, arrivals))
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.add(token, logprob, self.eos_ids)
            events.append(self.event(row, token))
        self.retire()
        return events

    def cancel(self, id: str) -> None:
        """Drop a request; its samples end as "cancelled" in the next step's events."""
        for prompt in (*self.scheduler.queue, *(row.prompt for row in self.scheduler.rows)):
            if prompt.id == id:
                prompt.cancelled = True

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None:
        """Copy new weights into the network, which is the learner's own where they share it."""
        self.learner.load_state_dict(weights)
        self.bump(version)

    def rest(self) -> None:
        """The weights are about to change: with nothing in flight, packed weights and the cache are let go of.

        Nothing can be submitted before `bump`, which makes them anew.
        """
        if self.scheduler.queue or self.scheduler.rows:
            return
        self.changes = -1
        self.runner.forget()
        self.runner.clear()
        if isinstance(self.network, PackedTransformer):
            self.network.drop()

    @torch.inference_mode()
    def bump(self, version: int) -> None:
        """The weights have changed in place: what was computed under the old ones is forgotten.

        Samples in flight go on under the new weights with their text so far; their completions say how many tokens
        each version sampled.
        """
        self.parameters = tuple(self.learner.parameters())
        self.version, self.changes = version, changes(self.parameters)
        for sample in (*self.scheduler.rows, *(one for prompt in self.scheduler.queue for one in prompt.waiting)):
            sample.follow(version)
        refresh(self.network, self.learner)
        self.runner.forget()
        for prompt in self.scheduler.queue:
            prompt.reading = None
            for sample in prompt.waiting:
                sample.again = None
        for share in self.scheduler.shares:
            share.filled = False
        self.renew()

    @property
    def reading(self) -> bool:
        """Whether a prompt is half computed, so that steps may bring no news."""
        return self.scheduler.half_read is not None

    @property
    def unplaced(self) -> int:
        """Tokens of the text that is half computed, which are kept apart from those of rows."""
        half_read = self.scheduler.half_read
        return 0 if half_read is None else half_read.length

    def end_full(self) -> list[Sample]:
        """End the samples that have no room to go on; returns them."""
        ended, self.full = self.full, []
        for sample in ended:
            sample.finish = "length"
        return ended

    def release(self) -> None:
        """Drop the cache and everything in flight."""
        self.scheduler.queue.clear()
        self.scheduler.rows.clear()
        del self.runner

    def rendered(self, request: Request) -> tuple[tuple[int, ...], bool]:
        """The prompt's tokens, and whether they leave a thought open."""
        if request.prompt is None:
            return self.tokenizer.prompt(request.messages, template=request.chat_template)
        text = self.tokenizer.backend.decode(list(request.prompt), skip_special_tokens=False)
        return request.prompt, chat.opens_thought(text)

    def require_known_weights(self) -> None:
        """Raise RunFailed if the learner's tensors have changed and nobody said so."""
        if changes(self.parameters) != self.changes:
            raise RunFailed(
                f"the weights are not those of version {self.version}, which the engine samples from",
                hint="call bump(version) on the engine after changing them",
            )

    def require_room(self, prompt: int, limit: int) -> None:
        """Raise InputError unless a prompt and a completion of these lengths are possible."""
        if prompt < 1 or limit < 1:
            raise InputError(
                "the prompt leaves no room for a completion",
                found=f"{prompt} prompt tokens, max_len {self.max_len}",
                hint="raise the engine's max_len, or shorten the prompt",
            )
        if prompt + limit > self.runner.cache_tokens:
            raise InputError(
                f"a sample of {prompt + limit} tokens does not fit into the cache",
                found=f"room for {self.runner.cache_tokens} tokens",
                hint="raise the engine's kv_memory, or lower max_tokens",
            )

    def renew(self) -> None:
        """Compute once more what every row remembers; its last token was never fed."""
        rows, slot = self.scheduler.rows, 0
        while slot < len(rows):
            readings, left = [], self.scheduler.prefill
            while left > 0 and slot + len(readings) < len(rows):
                row = rows[slot + len(readings)]
                readings.append(self.runner.open(row.text[:-1], row.prompt.request.salt))
                left -= self.claim(readings[-1], left)
            self.runner.read(readings)
            while readings[-1].missing:
                self.claim(readings[-1], self.scheduler.prefill)
                self.runner.read(readings[-1:])
            self.runner.place(readings, rows[slot : slot + len(readings)], slot)
            slot += len(readings)

    def hidden(self, running: Sequence[Sample], arrivals: Sequence[Sample]) -> Tensor:
        """hidden_BD at the last token of everything: rows that were running, then those that arrive."""
        hidden = [self.runner.decode(running)] if running else []
        if arrivals:
            readings = [sample.reading for sample in arrivals]
            self.runner.place(readings, arrivals, len(running))
            hidden.append(torch.stack([reading.hidden_D for reading in readings]))
            self.begin(arrivals)
        return torch.cat(hidden)

    def begin(self, arrivals: Sequence[Sample]) -> None:
        """What was computed of texts that have begun is not needed any more, but for prompts of which samples wait."""
        for sample in arrivals:
            sample.again = None
            if not sample.tokens:
                sample.prompt.reading = sample.prompt.reading if sample.prompt.waiting else None

    def take(self, readings: list[Reading], sample: Sample, tokens: int) -> tuple[int, bool]:
        """Have at most so many more tokens of a sample's text computed, among `readings`; returns how many, and whether
        the text is complete with them."""
        if sample.reading is None:
            if tokens <= 0:
                return 0, False
            reading = self.runner.open(sample.text, sample.prompt.request.salt)
            if self.puts_off(sample.prompt, reading, readings):
                return 0, False
            sample.reading = reading
            if not sample.tokens:
                sample.prompt.known = sample.reading.known
            if sample.prompt.begun_at is None:
                sample.prompt.begun_at = time.monotonic()
        taken = self.claim(sample.reading, tokens)
        if taken:
            readings.append(sample.reading)
        return taken, not sample.reading.missing

    def puts_off(self, prompt: Prompt, reading: Reading, readings: Sequence[Reading]) -> bool:
        """Whether a text waits for the next step, because one of `readings` computes what it goes on with: of many that
        come at once with the same beginning, the first computes it. None waits where waiting has brought nothing."""
        self.forgets = self.forgets or prompt.put_off == reading.known
        if self.forgets or not self.runner.will_know(reading, readings):
            return False
        prompt.put_off = reading.known
        return True

    def claim(self, reading: Reading, tokens: int) -> int:
        """Let a text advance by at most so many tokens when it is read next; returns by how many."""
        taken = self.runner.portion(reading, tokens) if reading.missing else 0
        reading.end += taken
        return taken

    def next_tokens(self, rows: Sequence[Sample], hidden_BD: Tensor) -> tuple[list[int], list[float]]:
        """A token for every row, and its log-probability."""
        idle = self.runner.padded(len(rows)) - len(rows)
        settings = [row.prompt.request.sampling for row in rows] + [Sampling()] * idle
        draws = uniforms([row.seed for row in rows] + [0] * idle, [len(row.tokens) for row in rows] + [0] * idle)
        allowed = [mask(row.tokens) if (mask := row.prompt.request.mask) else None for row in rows] + [None] * idle
        logits_BV = biased(self.network.logits(F.pad(hidden_BD, (0, 0, 0, idle))), rows)
        note_alternatives(logits_BV, rows)
        tokens_B, logprobs_B = draw(logits_BV, settings, draws, allowed)
        logprobs = logprobs_B[: len(rows)].tolist()
        if any(math.isnan(logprob) for logprob in logprobs):
            raise NotFinite("the network's logits are NaN", hint="the weights are broken: go back to a checkpoint")
        return tokens_B[: len(rows)].tolist(), logprobs

    def event(self, sample: Sample, *tokens: int) -> Event:
        """News of a sample."""
        prompt = sample.prompt
        ended = sample.finish is not None
        return Event(
            prompt.id,
            sample.number,
            tokens,
            completion=sample.completion(self.tokenizer) if ended else None,
            prompt=prompt.tokens if ended else (),
            logprobs=tuple(sample.logprobs[len(sample.logprobs) - len(tokens) :]),
            alternatives=sample.alternatives if tokens else (),
            known=prompt.known,
            begun_at=prompt.begun_at,
        )

    def retire(self) -> None:
        """Let ended samples leave the batch; what a later prompt may begin with is remembered."""
        for slot, row in enumerate(self.scheduler.rows):
            if row.finish in ("stop", "length") and row.prompt.request.followed:
                self.runner.remember(slot, row)
        rows, shares = self.scheduler.retire()
        self.runner.move(rows, shares)


def changes(parameters: Sequence[Tensor]) -> int:
    """How often these have been written to in place."""
    return sum(parameter._version for parameter in parameters)


@torch.no_grad()
def refresh(copy: Any, source: Network) -> None:
    """Bring the learner's weights into a network that holds them in another layout or format."""
    if isinstance(copy, PackedTransformer):
        copy.refresh()
    elif copy is not source:
        for ours, theirs in zip(copy.parameters(), source.parameters(), strict=True):
            ours.copy_(theirs)
