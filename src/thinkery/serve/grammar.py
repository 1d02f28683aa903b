"""Answers in a form that was asked for: JSON, or JSON by a schema, token by token, by llguidance.

The grammar begins where the answer does, after the thought. Where the model may choose to think, it may begin with
the tag of a thought or with the first token of the answer. No token may end the thought and begin the answer at once
(SmolLM2 has one, `>"`): the grammar would not know how the answer begins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import util
from typing import Any

import numpy as np

from thinkery.chat import CLOSE, OPEN, overhang
from thinkery.errors import InputError
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.refusals import invalid

LACKING = "response_format needs a package that this server lacks: pip install 'thinkery[grammar]'"


def json_grammar(schema: Mapping[str, Any] | None) -> str:
    """The grammar of a JSON object, or of a schema; raises Refusal for a schema that it cannot follow."""
    if util.find_spec("llguidance") is None:
        raise invalid(LACKING)
    from llguidance import LLMatcher

    wanted = {"type": "object"} if schema is None else dict(schema)
    try:
        written = json.dumps(wanted, allow_nan=False)
        text = LLMatcher.grammar_from_json_schema(written, overrides={"whitespace_flexible": False})
    except ValueError as error:
        raise invalid("Invalid response_format value: {0}", first_line(str(error))) from None
    if problem := LLMatcher.validate_grammar(text, None):
        raise invalid("Invalid response_format value: {0}", first_line(problem))
    return text


class Guide:
    """A grammar in the course of one answer; raises InputError where it cannot follow this one with this tokenizer."""

    def __init__(self, grammar: str, tokenizer: Tokenizer) -> None:
        from llguidance import LLMatcher, LLParserLimits
        from llguidance.numpy import allocate_token_bitmask

        self.vocabulary = _vocabulary(tokenizer)
        limits = LLParserLimits(verbose_errors=False)
        self.matcher = LLMatcher(self.vocabulary.lexer, grammar, log_level=0, limits=limits)
        self.mask = allocate_token_bitmask(1, self.vocabulary.lexer.vocab_size)
        if self.problem:
            raise InputError(self.problem)

    @property
    def problem(self) -> str:
        """Why the answer cannot go on by the grammar (too much to keep track of, a token that may not come), or ""."""
        if not self.matcher.is_error():
            return ""
        return f"The answer could not follow its response_format: {first_line(self.matcher.get_error())}"

    def allowed(self) -> Sequence[int]:
        """The tokens that may come next; only the end where there is a `problem`."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self.matcher, self.mask)
        bits = np.unpackbits(self.mask.view(np.uint8), bitorder="little", count=len(self.vocabulary.words))
        return np.flatnonzero(bits).tolist()

    def opening(self, held: str) -> Sequence[int]:
        """The tokens that may come where a thought may still begin, of which `held` has come: one of white space first,
        as after `Assistant:`, then the tag, or else the answer."""
        words = self.vocabulary.words
        tags = [
            id
            for id, text in enumerate(words)
            if text and (text.strip() or not held) and begins_tag((held + text).lstrip())
        ]
        return tags if held.strip() else [*tags, *(id for id in self.allowed() if words[id].strip())]

    def thinking(self, held: str) -> Sequence[int] | None:
        """The tokens that may come in a thought that ends with `held`; None for all of them."""
        return self.vocabulary.apart(held[len(held) - overhang(held, (CLOSE,)) :])

    def take(self, token: int) -> None:
        """This one has come; one that may not have come is a `problem`."""
        self.matcher.consume_token(token)


def begins_tag(text: str) -> bool:
    """Whether a text is the beginning of a thought's opening tag, or begins with it."""
    return OPEN.startswith(text) or text.startswith(OPEN)


def first_line(text: str) -> str:
    """What a library says, short enough for an error."""
    return next(iter(text.strip().splitlines()), "")[:300]


class _Vocabulary:
    """A tokenizer as llguidance reads it, and the text of every token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from llguidance import LLTokenizer

        try:
            self.lexer = LLTokenizer(tokenizer.backend.to_str(), eos_token=sorted(tokenizer.eos_ids))
        except ValueError as error:
            what = f"response_format cannot be followed with this model's tokenizer: {first_line(str(error))}"
            raise InputError(what, where=tokenizer.folder) from error
        size = self.lexer.vocab_size
        self.words = [tokenizer.backend.decode([id], skip_special_tokens=False) for id in range(size)]
        self.known: dict[str, list[int] | None] = {}
        """What `apart` has found."""

    def apart(self, begun: str) -> Sequence[int] | None:
        """The tokens that do not, after this beginning of `</think>`, end the thought and go on with the answer; None
        where none does."""
        if begun not in self.known:
            both = {id for id, text in enumerate(self.words) if (begun + text).partition(CLOSE)[2].strip()}
            self.known[begun] = [id for id in range(len(self.words)) if id not in both] if both else None
        return self.known[begun]


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: Tokenizer) -> _Vocabulary:
    """Made once for each tokenizer, which takes a second for a large one."""
    return _Vocabulary(tokenizer)
