"""The contract on the wire: fields, streams, prefixes, log-probabilities, and errors with their words."""

from __future__ import annotations

import re
from uuid import UUID

import httpx
import pytest
from tests.serve.conftest import ANSWER, THOUGHT, chat, events

from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer

CONTEXT = 4096
TOKENIZER = Tokenizer.load(locate("tiny"))


def error(response: httpx.Response) -> tuple[int, str]:
    """Status and message of an answer that is an error, in the one form there is."""
    data = response.json()
    assert set(data) == {"error"}
    assert set(data["error"]) == {"message", "type", "param", "code"}
    assert (data["error"]["param"], data["error"]["code"]) == (None, "invalid_request_error")
    return response.status_code, data["error"]["message"]


def test_an_answer_has_the_fields_of_the_api(client):
    data = chat(client, "what is red").json()
    assert UUID(data["id"]).version == 4
    assert re.fullmatch(r"fp_[0-9a-f]{10}", data["system_fingerprint"])
    assert data["created"] > 1.7e9
    del data["id"], data["system_fingerprint"], data["created"]
    assert data == {
        "object": "chat.completion",
        "model": "deepseek-reasoner",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 44,
            "total_tokens": 56,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 32},
            "prompt_cache_hit_tokens": 0,
            "prompt_cache_miss_tokens": 12,
        },
    }


def test_a_stream_is_thought_then_answer_then_the_end_with_the_usage(client):
    chunks = events(chat(client, "what is red", stream=True))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": None, "reasoning_content": ""}
    assert deltas[-1] == {"content": "", "reasoning_content": None}
    thoughts = [delta["reasoning_content"] for delta in deltas[1:] if delta["content"] is None]
    contents = [delta["content"] for delta in deltas if delta["reasoning_content"] is None]
    assert deltas[1:] == [
        *({"content": None, "reasoning_content": text} for text in thoughts),
        *({"content": text, "reasoning_content": None} for text in contents),
    ]
    assert "" not in thoughts
    assert ("".join(thoughts), "".join(contents)) == (THOUGHT, ANSWER)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["usage"] == chat(client, "what is red").json()["usage"]


def test_streamed_and_not_streamed_are_the_same_for_the_same_seed(client):
    settings = {"temperature": 2, "seed": 7, "max_tokens": 60, "n": 3, "logprobs": True, "top_logprobs": 2}
    whole = chat(client, "what is red", **settings).json()
    kinds = ("content", "reasoning_content")
    said = {n: {"marks": {kind: [] for kind in kinds}, **dict.fromkeys(kinds, "")} for n in range(3)}
    chunks = events(chat(client, "what is red", stream=True, **settings))
    for chunk in chunks:
        choice = chunk["choices"][0]
        for kind in kinds:
            said[choice["index"]][kind] += choice["delta"].get(kind) or ""
            said[choice["index"]]["marks"][kind] += (choice["logprobs"] or {}).get(kind, [])
    assert len({str(choice["message"]) for choice in whole["choices"]}) == 3
    for choice in whole["choices"]:
        one = said[choice["index"]]
        assert choice["message"] == {"role": "assistant", **{kind: one[kind] for kind in kinds}}
        assert choice["logprobs"] == one["marks"]
    assert chunks[-1]["usage"] == whole["usage"]


def test_log_probabilities_are_told_for_every_token(client):
    choice = chat(client, "two", logprobs=True, top_logprobs=3, max_tokens=40).json()
    marks = choice["choices"][0]["logprobs"]
    assert [len(marks[kind]) for kind in ("reasoning_content", "content")] == [32, 8]
    assert marks["content"][2]["token"] == "Hello"
    for mark in marks["content"] + marks["reasoning_content"]:
        assert mark["logprob"] <= 0
        assert len(mark["top_logprobs"]) == 3
        assert mark["top_logprobs"][0]["token"] == mark["token"]  # temperature 0 takes the likeliest
        assert bytes(mark["bytes"]).decode() == mark["token"]


def test_the_bytes_of_a_part_of_a_character_are_its_own(client):
    """The likeliest tokens are the four bytes of an emoji, none of which is a character."""
    emoji = TOKENIZER.encode("🙂")
    assert len(emoji) == 4
    bias = {str(token): 100 for token in emoji}
    choice = chat(client, "hi", logprobs=True, top_logprobs=4, max_tokens=3, logit_bias=bias).json()["choices"][0]
    marks = choice["logprobs"]["content"]
    assert len(marks) == 3
    for mark in marks:
        assert {tuple(one["bytes"]) for one in mark["top_logprobs"]} == {(byte,) for byte in "🙂".encode()}
        assert {one["token"] for one in [mark, *mark["top_logprobs"]]} == {"\ufffd"}
        assert mark["bytes"] == mark["top_logprobs"][0]["bytes"]


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions", "/beta/chat/completions"])
def test_chat_is_there_under_every_path(client, path):
    body = {"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
    assert client.post(path, json=body).json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("path", ["/models", "/v1/models"])
def test_models_are_listed(client, thinker, path):
    data = client.get(path).json()
    assert data["object"] == "list"
    entry = {"object": "model", "owned_by": "thinkery", "pricing": {"hit": 140, "miss": 550, "completion": 2190}}
    assert data["data"] == [{"id": name, "root": str(thinker), **entry} for name in ("deepseek-reasoner", str(thinker))]


@pytest.mark.parametrize(
    ("last", "thought", "content"),
    [
        ({"content": "", "reasoning_content": "Somebody is"}, THOUGHT.removeprefix("Somebody is").strip(), ANSWER),
        ({"content": "Hello", "reasoning_content": THOUGHT}, "", ANSWER.removeprefix("Hello")),
        ({"content": "Hello"}, "", ANSWER.removeprefix("Hello")),
    ],
)
def test_an_answer_that_was_begun_is_continued(client, last, thought, content):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "prefix": True, **last}]
    body = {"model": "deepseek-reasoner", "messages": messages, "temperature": 0}
    message = client.post("/beta/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["reasoning_content"] == thought
    assert message["content"].endswith(content)


def test_stop_applies_to_the_answer_alone(client):
    data = chat(client, "hi", stop=["how", "so I say"]).json()
    assert data["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hello there, ",
        "reasoning_content": THOUGHT,
    }
    assert data["choices"][0]["finish_reason"] == "stop"
    assert data["usage"]["completion_tokens"] == 40  # what came after the stop string was not generated


def test_a_thought_that_is_cut_leaves_an_empty_answer(client):
    data = chat(client, "hi", max_tokens=9).json()
    assert data["choices"][0]["message"]["content"] == ""
    assert THOUGHT.startswith(data["choices"][0]["message"]["reasoning_content"])
    assert data["choices"][0]["finish_reason"] == "length"
    assert data["usage"]["completion_tokens_details"]["reasoning_tokens"] == 9


def test_a_thought_has_a_budget(client):
    data = chat(client, "hi", max_reasoning_tokens=10, max_tokens=60).json()
    assert data["choices"][0]["message"]["reasoning_content"] in THOUGHT
    assert data["usage"]["completion_tokens_details"]["reasoning_tokens"] == 11  # ten, and the tag
    assert data["choices"][0]["message"]["content"] != ""


def test_a_bias_changes_what_is_said(client):
    assert chat(client, "hi", logit_bias={"1021": -100}, max_tokens=50).json()["choices"][0]["message"]["content"] == ""


def test_plain_text_is_continued_with_log_probabilities(client):
    body = {"model": "deepseek-reasoner", "prompt": "Hello th", "max_tokens": 3, "temperature": 0, "logprobs": 2}
    data = client.post("/v1/completions", json={**body, "echo": True}).json()
    (choice,) = data["choices"]
    assert data["object"] == "text_completion"
    assert choice["text"].startswith("Hello th")
    marks = choice["logprobs"]
    assert "".join(marks["tokens"]) == choice["text"]
    assert marks["text_offset"][:2] == [0, len(marks["tokens"][0])]
    assert marks["token_logprobs"][0] is None
    assert all(p <= 0 for p in marks["token_logprobs"][1:])
    assert [None if top is None else len(top) for top in marks["top_logprobs"]] == [None] + [2] * (
        len(marks["tokens"]) - 1
    )
    alone = client.post("/v1/completions", json=body).json()["choices"][0]
    assert "Hello th" + alone["text"] == choice["text"]
    assert alone["logprobs"]["token_logprobs"] == pytest.approx(marks["token_logprobs"][-3:], abs=1e-4)
    scored = client.post("/v1/completions", json={**body, "echo": True, "max_tokens": 0}).json()["choices"][0]
    assert scored["logprobs"]["token_logprobs"] == pytest.approx(marks["token_logprobs"][:-3], abs=1e-4, nan_ok=True)


def test_several_prompts_are_answered_in_order(client):
    body = {"model": "deepseek-reasoner", "n": 2, "max_tokens": 2, "seed": 1}
    data = client.post("/v1/completions", json={**body, "prompt": ["Hello", "Hello there"]}).json()
    assert [choice["index"] for choice in data["choices"]] == [0, 1, 2, 3]
    chunks = events(client.post("/v1/completions", json={**body, "prompt": ["Hello", "Hello there"], "stream": True}))
    texts = ["".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == i) for i in range(4)]
    assert texts == [choice["text"] for choice in data["choices"]]
    assert client.post("/v1/completions", json={**body, "prompt": [[41, 42], [43]]}).status_code == 200
    assert client.post("/v1/completions", json={**body, "prompt": [41, 42]}).status_code == 200
    assert client.post("/v1/completions", json={**body, "prompt": [5000]}).status_code == 400


USER, SAID, SYSTEM = ({"role": role, "content": "x"} for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"messages": [USER, SAID]}, 400, "The last message of deepseek-reasoner must be a user message, or an "
         "assistant message with prefix mode on (refer to https://api-docs.deepseek.com/guides/chat_prefix_completion)."),
        ({"messages": [SAID, USER]}, 400, "The first message (except the system message) of deepseek-reasoner must be "
         "a user message, but an assistant message detected."),
        ({"messages": [USER, SYSTEM, USER]}, 400, "The system message of deepseek-reasoner must be put on the "
         "beginning of the message sequence."),
        ({"max_tokens": 0}, 400, "Invalid max_tokens value, the valid range of max_tokens is [1, 65536]"),
        ({"max_tokens": 5000}, 400, f"This model's maximum context length is {CONTEXT} tokens. However, you requested "
         "5008 tokens (8 in the messages, 5000 in the completion). Please reduce the length of the messages or "
         "completion."),
        ({"model": "gpt-4"}, 400, "Model Not Exist"),
        ({"temperature": 2.5}, 400, "Invalid temperature value, the valid range of temperature is [0, 2]"),
        ({"n": 100}, 400, "Invalid n value, the valid range of n is [1, 16]"),
        ({"stop": ["x"] * 17}, 400, "Invalid stop value, at most 16 stop strings are supported"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400,
         "This model reads text only: a part of type 'image_url' is not supported"),
        ({"messages": []}, 422, "Failed to deserialize the JSON body into the target type: messages: List should have "
         "at least 1 item after validation, not 0"),
        ({"messages": [{"role": "boss", "content": "x"}]}, 422, "Failed to deserialize the JSON body into the target "
         "type: messages[0].role: Input should be 'system', 'developer', 'user', 'assistant' or 'tool'"),
        ({"temperature": "hot"}, 422, "Failed to deserialize the JSON body into the target type: temperature: Input "
         "should be a valid number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_in_the_words_of_the_api(client, change, status, message):
    assert error(chat(client, "x", **change)) == (status, message)


def test_conversations_of_any_shape_are_put_right(client):
    merged = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
        {"role": "user", "content": "e"},
        {"role": "assistant", "content": "f", "reasoning_content": "a thought sent back"},
        {"role": "user", "content": "g"},
    ]
    right = [("system", "a\n\nb"), ("user", "c\nd\n\ne"), ("assistant", "f"), ("user", "g")]
    right = [{"role": role, "content": content} for role, content in right]
    found = [chat(client, messages=messages, max_tokens=1).json()["usage"] for messages in (merged, right)]
    assert found[0]["prompt_tokens"] == found[1]["prompt_tokens"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/chat/completions", 405)])
def test_what_the_framework_refuses_looks_the_same(client, method, path, status):
    assert error(client.request(method, path))[0] == status
