"""What clients get: whole answers, the chunks of streams, lists of models, all as plain JSON data."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from thinkery.chat import Call
from thinkery.serve.call import Said, Usage
from thinkery.serve.jobs import Mark, News, Word

DONE = b"data: [DONE]\n\n"
ALIVE = b": keep-alive\n\n"
PLACE = "\ue000 here \ue000"
"""Stands in a form where the text comes."""


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of an answer repeats."""

    object: str
    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: str(uuid4()))
    created: int = field(default_factory=lambda: int(time.time()))

    def json(self, choices: list[Any], usage: Usage | None, *, object: str = "") -> dict[str, Any]:
        """The object around choices."""
        return {
            "id": self.id,
            "object": object or self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": None if usage is None else usage_json(usage),
            "system_fingerprint": self.fingerprint,
        }


def usage_json(usage: Usage) -> dict[str, Any]:
    """Tokens as the API counts them."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.hit},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "prompt_cache_hit_tokens": usage.hit,
        "prompt_cache_miss_tokens": usage.miss,
    }


encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Data as the text of an event."""


def event(data: Mapping[str, Any]) -> bytes:
    """One event of a stream."""
    return f"data: {encoded(data)}\n\n".encode()


class Form:
    """An event in which everything but one text is the same for every token."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        before, _, after = f"data: {encoded(data)}\n\n".rpartition(encoded(PLACE))
        self.before, self.after = before, after

    def filled(self, text: str) -> bytes:
        """The event with this text."""
        return f"{self.before}{encoded(text)}{self.after}".encode()


class ChatAnswer:
    """The forms of a chat answer."""

    def __init__(self, model: str, fingerprint: str, *, logprobs: bool, promote_unclosed: bool) -> None:
        self.head = Head("chat.completion", model, fingerprint)
        self.logprobs, self.promote_unclosed = logprobs, promote_unclosed
        self.begun: set[int] = set()
        """Answers whose first chunk was sent."""
        self.untold: defaultdict[int, list[News]] = defaultdict(list)
        """News whose log-probabilities are to be told with the next text."""
        self.forms: dict[tuple[int, str], Form] = {}
        """By number and by what the text is."""

    def whole(self, said: Sequence[Said], usage: Usage) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [
            {
                "index": number,
                "message": {
                    "role": "assistant",
                    "content": one.thought if self.promoted(one.unclosed) else one.answer,
                    "reasoning_content": one.thought,
                    **calls_json(one.calls),
                },
                "logprobs": self.marks(one.thought_marks, one.answer_marks),
                "finish_reason": one.end,
            }
            for number, one in enumerate(said)
        ]
        return self.head.json(choices, usage)

    def events(self, number: int, news: News, said: Said) -> Iterator[bytes]:
        """The events that news become, but for the one that ends the answer; text in each is thought or answer."""
        if number not in self.begun:
            self.begun.add(number)
            yield event(self.chunk(number, {"role": "assistant", "content": None, "reasoning_content": ""}))
        answer = said.thought if news.end is not None and self.promoted(news.unclosed) else news.answer
        if self.logprobs:
            self.untold[number].append(news)
        if news.thought:
            yield self.delta(number, "reasoning_content", news.thought)
        if answer:
            yield self.delta(number, "content", answer)
        if news.calls:
            calls = calls_json(news.calls)["tool_calls"]
            numbered = [{"index": i, **call} for i, call in enumerate(calls)]
            delta = {"content": None, "reasoning_content": None, "tool_calls": numbered}
            yield event(self.chunk(number, delta, told=True))

    def delta(self, number: int, kind: str, text: str) -> bytes:
        """The event that tells more of the thought or of the answer."""
        if self.logprobs:
            return event(self.chunk(number, self.text(kind, text), told=True))
        form = self.forms.get((number, kind))
        if form is None:
            form = self.forms[number, kind] = Form(self.chunk(number, self.text(kind, PLACE)))
        return form.filled(text)

    def text(self, kind: str, text: str) -> dict[str, Any]:
        """A delta of one kind of text alone."""
        return {"content": None, "reasoning_content": None, kind: text}

    def last(self, number: int, said: Said, usage: Usage | None) -> bytes:
        """The event that ends an answer; of several, the very last has the usage."""
        return event(self.chunk(number, self.text("content", ""), told=True, end=said.end, usage=usage))

    def promoted(self, unclosed: bool) -> bool:
        """Whether a thought stands in for the answer."""
        return unclosed and self.promote_unclosed

    def chunk(
        self,
        number: int,
        delta: dict[str, Any],
        *,
        told: bool = False,
        end: str | None = None,
        usage: Usage | None = None,
    ) -> dict[str, Any]:
        """One chunk; where something is told, with the log-probabilities of all that has come since."""
        news = self.untold.pop(number, []) if told else []
        thought = [mark for one in news for mark in one.thought_marks]
        answer = [mark for one in news for mark in one.answer_marks]
        marks = self.marks(thought, answer) if thought or answer else None
        choice = {"index": number, "delta": delta, "logprobs": marks, "finish_reason": end}
        return self.head.json([choice], usage, object="chat.completion.chunk")

    def marks(self, thought: Sequence[Mark], answer: Sequence[Mark]) -> dict[str, Any] | None:
        """Log-probabilities, where they were asked for."""
        if not self.logprobs:
            return None
        return {"content": [mark_json(m) for m in answer], "reasoning_content": [mark_json(m) for m in thought]}


def calls_json(calls: Sequence[Call]) -> dict[str, Any]:
    """The field of a message with calls; nothing where there are none."""
    if not calls:
        return {}
    functions = [(call.id, {"name": call.name, "arguments": call.arguments}) for call in calls]
    return {"tool_calls": [{"id": id, "type": "function", "function": function} for id, function in functions]}


def mark_json(mark: Mark) -> dict[str, Any]:
    """One token with its log-probability and those of the likeliest."""
    top = [word_json(word, p) for word, p in mark.alternatives]
    return {**word_json(mark.token, mark.logprob), "top_logprobs": top}


def word_json(word: Word, logprob: float | None) -> dict[str, Any]:
    """A token with its log-probability; its bytes are null where they are not known."""
    spelling = None if word.spelling is None else list(word.spelling)
    return {"token": word.text, "logprob": finite(logprob), "bytes": spelling}


def finite(logprob: float | None) -> float | None:
    """A log-probability as JSON can say it: the API writes -9999 for impossible."""
    return -9999.0 if logprob is not None and math.isinf(logprob) else logprob


class TextAnswer:
    """The forms of a plain completion; `echoes` are the prompts where they are to be repeated, "" elsewhere."""

    def __init__(self, model: str, fingerprint: str, echoes: Sequence[str], *, logprobs: bool) -> None:
        self.head = Head("text_completion", model, fingerprint)
        self.echoes, self.logprobs = echoes, logprobs
        self.offsets = [0] * len(echoes)
        self.begun: set[int] = set()
        self.forms: dict[int, Form] = {}
        """By number."""

    def whole(self, said: Sequence[Said], usage: Usage) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [
            self.choice(number, self.echoes[number] + one.answer, [*one.prompt_marks, *one.answer_marks], one.end)
            for number, one in enumerate(said)
        ]
        return self.head.json(choices, usage)

    def events(self, number: int, news: News, said: Said) -> Iterator[bytes]:
        """The events that news become, but for the one that ends the answer."""
        text = news.answer if number in self.begun else self.echoes[number] + news.answer
        self.begun.add(number)
        marks = [*news.prompt_marks, *news.answer_marks]
        if marks and self.logprobs:
            yield event(self.head.json([self.choice(number, text, marks, None)], None))
        elif text:
            if number not in self.forms:
                self.forms[number] = Form(self.head.json([self.choice(number, PLACE, [], None)], None))
            yield self.forms[number].filled(text)

    def last(self, number: int, said: Said, usage: Usage | None) -> bytes:
        """The event that ends an answer; of several, the very last has the usage."""
        return event(self.head.json([self.choice(number, "", [], said.end)], usage))

    def choice(self, number: int, text: str, marks: Sequence[Mark], end: str | None) -> dict[str, Any]:
        """One answer, or a part of it."""
        logprobs = self.marks(number, marks) if self.logprobs and marks else None
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": end}

    def marks(self, number: int, marks: Sequence[Mark]) -> dict[str, Any]:
        """Log-probabilities in the form of this endpoint: lists side by side."""
        offsets = []
        for mark in marks:
            offsets.append(self.offsets[number])
            self.offsets[number] += len(mark.token.text)
        return {
            "tokens": [mark.token.text for mark in marks],
            "token_logprobs": [finite(mark.logprob) for mark in marks],
            "top_logprobs": [
                None if mark.logprob is None else {word.text: finite(p) for word, p in reversed(mark.alternatives)}
                for mark in marks
            ],
            "text_offset": offsets,
        }
