"""Answers in a form that was asked for: JSON, or JSON by a schema, token by token, by llguidance.

The grammar begins where the answer does, after the thought. Where the model may choose to think, it may begin with
the tag of a thought or with the first token of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import util
from typing import Any

import numpy as np

from thinkery.chat import OPEN
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.refusals import invalid

LACKING = "response_format needs a package that this server lacks: pip install 'thinkery[grammar]'"


def json_grammar(schema: Mapping[str, Any] | None) -> str:
    """The grammar of a JSON object, or of a schema; raises Refusal for a schema that it cannot follow."""
    if util.find_spec("llguidance") is None:
        raise invalid(LACKING)
    from llguidance import LLMatcher

    wanted = {"type": "object"} if schema is None else dict(schema)
    text = LLMatcher.grammar_from_json_schema(json.dumps(wanted), overrides={"whitespace_flexible": False})
    if problem := LLMatcher.validate_grammar(text, None):
        raise invalid("Invalid response_format value: {0}", problem.strip().splitlines()[0][:300])
    return text


class Guide:
    """A grammar in the course of one answer."""

    def __init__(self, grammar: str, tokenizer: Tokenizer) -> None:
        from llguidance import LLMatcher
        from llguidance.numpy import allocate_token_bitmask

        self.vocabulary = _vocabulary(tokenizer)
        self.matcher = LLMatcher(self.vocabulary.lexer, grammar)
        self.mask = allocate_token_bitmask(1, self.vocabulary.lexer.vocab_size)

    def allowed(self) -> Sequence[int]:
        """The tokens that may come next."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self.matcher, self.mask)
        return np.flatnonzero(np.unpackbits(self.mask.view(np.uint8), bitorder="little")).tolist()

    def opening(self, held: str) -> Sequence[int]:
        """The tokens that may come where a thought may still begin, of which `held` has come."""
        tags = [id for id, text in enumerate(self.vocabulary.words) if text and begins_tag(held + text)]
        if held:
            return tags
        return [*tags, *(id for id in self.allowed() if self.vocabulary.words[id].strip())]

    def take(self, token: int) -> None:
        """This one has come."""
        self.matcher.consume_token(token)


def begins_tag(text: str) -> bool:
    """Whether a text is the beginning of a thought's opening tag, or begins with it."""
    return OPEN.startswith(text) or text.startswith(OPEN)


class _Vocabulary:
    """A tokenizer as llguidance reads it, and the text of every token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from llguidance import LLTokenizer

        self.lexer = LLTokenizer(tokenizer.backend.to_str(), eos_token=sorted(tokenizer.eos_ids))
        size = self.lexer.vocab_size
        self.words = [tokenizer.backend.decode([id], skip_special_tokens=False) for id in range(size)]


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: Tokenizer) -> _Vocabulary:
    """Made once for each tokenizer, which takes a second for a large one."""
    return _Vocabulary(tokenizer)
