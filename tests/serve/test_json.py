"""Answers in a form that was asked for: the thought is free, the answer is JSON, whatever the model would say."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from tests.serve.conftest import THOUGHT, chat, events
from tokenizers import models

from thinkery.chat import THINK_CHAT
from thinkery.core import Completion, Sampling
from thinkery.engine.base import Event
from thinkery.errors import InputError
from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.choice import Choice
from thinkery.serve.grammar import Guide, json_grammar
from thinkery.serve.jobs import Begins, Job, News

pytest.importorskip("llguidance")

OBJECT = {"type": "json_object"}
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "balls": {"type": "integer", "minimum": 0, "maximum": 40},
        "round": {"type": "boolean"},
    },
    "required": ["colour", "balls", "round"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
TOKENIZER = Tokenizer.load(locate("tiny"))


def follows(text: str) -> bool:
    """Whether a text is JSON by SCHEMA."""
    found = json.loads(text)
    return (
        set(found) == {"colour", "balls", "round"}
        and found["colour"] in ("red", "blue")
        and type(found["balls"]) is int
        and 0 <= found["balls"] <= 40
        and type(found["round"]) is bool
    )


# ---- on the wire


def test_an_answer_follows_the_schema_after_a_thought_that_is_free(client):
    data = chat(client, "what is red", response_format=FORM).json()
    (choice,) = data["choices"]
    assert choice["message"]["reasoning_content"] == THOUGHT
    assert choice["finish_reason"] == "stop"
    assert follows(choice["message"]["content"])
    assert data["usage"]["completion_tokens_details"]["reasoning_tokens"] == 32


def test_every_sample_follows_the_schema_and_streams_as_it_is_told_whole(client):
    settings = {"response_format": FORM, "temperature": 1, "seed": 3, "n": 4, "max_tokens": 200}
    whole = chat(client, "what is red", **settings).json()
    streamed = {number: {"content": "", "reasoning_content": ""} for number in range(4)}
    for chunk in events(chat(client, "what is red", stream=True, **settings)):
        (choice,) = chunk["choices"]
        for kind, text in streamed[choice["index"]].items():
            streamed[choice["index"]][kind] = text + (choice["delta"].get(kind) or "")
    complete = [choice["message"] for choice in whole["choices"] if choice["finish_reason"] == "stop"]
    assert complete
    assert all(follows(message["content"]) for message in complete)
    assert [choice["message"] for choice in whole["choices"]] == [
        {"role": "assistant", **one} for one in streamed.values()
    ]


def test_json_mode_gives_an_object_or_the_beginning_of_one(client):
    settings = {"response_format": OBJECT, "temperature": 1, "seed": 5, "n": 8, "max_tokens": 60}
    for choice in chat(client, "what is red", **settings).json()["choices"]:
        content = choice["message"]["content"]
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(content), dict)
        else:
            assert (choice["finish_reason"], content[:1]) in (("length", "{"), ("length", ""))


def test_a_model_may_answer_without_a_thought(client):
    """It likes braces best: the first one begins the answer, where it could have begun to think."""
    bias = {str(TOKENIZER.encode(brace)[0]): 100 for brace in "{}"}
    (choice,) = chat(client, "hi", response_format=OBJECT, logit_bias=bias).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "{}", "reasoning_content": ""}
    assert choice["finish_reason"] == "stop"


def test_a_schema_that_needs_too_much_is_an_error_and_not_an_end(client):
    """It has more alternatives than the library follows at once, which shows when the answer begins."""
    names = [f"a{number}" for number in range(2100)]
    schema = {"anyOf": [{"type": "object", "properties": {name: {}}, "required": [name]} for name in names]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    whole, stream = (chat(client, "hi", response_format=form, stream=stream) for stream in (False, True))
    error = whole.json()["error"]
    assert (whole.status_code, error["type"]) == (500, "server_error")
    assert error["message"].startswith("The answer could not follow its response_format: ")
    *_, failure, end = stream.text.split("\n\n")
    assert (json.loads(failure.removeprefix("data: ")), end) == (whole.json(), "")
    assert chat(client, "hi").json()["choices"][0]["message"]["reasoning_content"] == THOUGHT


# ---- token by token


def guided(
    tokenizer: Tokenizer, schema: dict[str, Any], *, begins: Begins = "thought", max_thought: int | None = None
) -> Choice:
    """An answer by a schema, at its beginning."""
    grammar = json_grammar(schema)
    job = Job("j", "m", (1,), 0, Sampling(), begins, max_thought=max_thought, grammar=grammar)
    return Choice(job, tokenizer, Guide(grammar, tokenizer))


def take(choice: Choice, *tokens: int) -> list[News]:
    """Let an engine sample these tokens, each of which the choice allows."""
    found = []
    for token in tokens:
        allowed = choice.allowed(())
        assert allowed is None or token in allowed
        done = Completion("", finish="stop") if token == choice.tokenizer.eos_id else None
        found.append(choice.take(Event("r", 0, (token,), done, logprobs=(-1.0,))))
    return found


def spelt(*, with_token: str) -> tuple[Tokenizer, int]:
    """The embedded tokenizer, in which tags are spelt letter by letter, with one more token."""
    data = json.loads((locate("tiny") / "tokenizer.json").read_text())
    data["added_tokens"] = data["added_tokens"][:1]
    data["model"]["vocab"][with_token] = id = len(data["model"]["vocab"])
    data["model"]["merges"].append(list(with_token))
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(data)), eos=TOKENIZER.eos, template=THINK_CHAT), id


def test_no_token_ends_the_thought_and_begins_the_answer_at_once():
    tokenizer, both = spelt(with_token='>"')
    choice = guided(tokenizer, {"enum": ["red"]})
    news = take(choice, *tokenizer.encode('So "<b>" and x>"'))
    assert choice.allowed(()) is None
    news += take(choice, *tokenizer.encode("</think"))
    allowed = choice.allowed(()) or ()
    assert both not in allowed
    assert len(allowed) == tokenizer.vocab_size - 1
    news += take(choice, *tokenizer.encode(">"))
    assert both not in (choice.allowed(()) or ())
    news += take(choice, *tokenizer.encode('"red"'), tokenizer.eos_id)
    assert "".join(one.thought for one in news) == 'So "<b>" and x>"'
    assert "".join(one.answer for one in news) == '"red"'
    assert (news[-1].end, news[-1].problem) == ("stop", "")


def test_a_model_that_may_think_begins_with_a_tag_or_the_answer_and_white_space_at_most_once():
    tag, brace, space, letter = (TOKENIZER.encode(text)[0] for text in ("<think>", "{", " ", "a"))
    choice = guided(TOKENIZER, {"type": "object", "properties": {}, "additionalProperties": False}, begins="open")
    first = choice.allowed(()) or ()
    assert {tag, brace, space} <= set(first)
    assert letter not in first
    take(choice, space)
    second = choice.allowed(()) or ()
    assert {tag, brace} <= set(second)
    assert space not in second
    news = take(choice, *TOKENIZER.encode("{}"), TOKENIZER.eos_id)
    assert "".join(one.answer for one in news) == "{}"


def test_a_thought_that_is_too_long_is_closed_and_the_answer_follows_the_schema():
    choice, thought = guided(TOKENIZER, {"enum": ["red"]}, max_thought=2), TOKENIZER.encode("two is red")[:2]
    news = take(choice, *thought, *TOKENIZER.encode('</think>"red"'), TOKENIZER.eos_id)
    assert "".join(one.thought for one in news) == TOKENIZER.decode(thought).strip()
    assert "".join(one.answer for one in news) == '"red"'


def test_an_answer_that_leaves_the_grammar_is_an_error():
    choice = guided(TOKENIZER, {"enum": ["red"]}, begins="answer")
    take(choice, *TOKENIZER.encode('"'))
    news = choice.take(Event("r", 0, (TOKENIZER.encode("x")[0],), logprobs=(-1.0,)))
    assert news.problem.startswith("The answer could not follow its response_format: ")
    assert news.end is not None


def test_a_tokenizer_that_the_grammar_cannot_read_is_an_error_of_its_own():
    backend = tokenizers.Tokenizer(models.WordLevel({"<end>": 0, "word": 1}, unk_token="<end>"))
    with pytest.raises(InputError, match="response_format cannot be followed with this model's tokenizer"):
        Guide(json_grammar(None), Tokenizer(backend, eos="<end>"))
