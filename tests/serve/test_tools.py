"""Tools on the wire: what a model calls is told as calls, whole and streamed, and a conversation goes on from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.serve.conftest import CALLS, THOUGHT, chat, events, serving

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("add", "now")]
FUNCTIONS = [{"name": "add", "arguments": '{"a": 2, "b": 3}'}, {"name": "now", "arguments": "{}"}]


@pytest.fixture(scope="module")
def client(caller: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server whose model calls tools."""
    with serving(caller, folder=tmp_path_factory.mktemp("calling")) as server, server.client() as one:
        yield one


def test_calls_are_told_beside_the_text_before_them(client):
    (choice,) = chat(client, "what is red", tools=TOOLS).json()["choices"]
    calls = choice["message"].pop("tool_calls")
    assert choice["message"] == {"role": "assistant", "content": "I add.\n", "reasoning_content": THOUGHT}
    assert choice["finish_reason"] == "tool_calls"
    assert [call["function"] for call in calls] == FUNCTIONS
    assert {call["type"] for call in calls} == {"function"}
    assert len({call["id"] for call in calls}) == 2


def test_a_stream_numbers_its_calls_and_says_nothing_of_their_text(client):
    chunks = events(chat(client, "what is red", tools=TOOLS, stream=True))
    choices = [chunk["choices"][0] for chunk in chunks]
    (delta,) = [choice["delta"] for choice in choices if "tool_calls" in choice["delta"]]
    assert (delta["content"], delta["reasoning_content"]) == (None, None)
    assert [(call["index"], call["type"], call["function"]) for call in delta["tool_calls"]] == [
        (0, "function", FUNCTIONS[0]),
        (1, "function", FUNCTIONS[1]),
    ]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "I add.\n"
    assert "".join(choice["delta"].get("reasoning_content") or "" for choice in choices) == THOUGHT
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
    assert chunks[-1]["usage"] == chat(client, "what is red", tools=TOOLS).json()["usage"]


def test_the_answers_of_tools_are_read(client):
    asked = {"role": "user", "content": "what is red"}
    said = chat(client, messages=[asked], tools=TOOLS).json()["choices"][0]["message"]
    told = [{"role": "tool", "tool_call_id": call["id"], "content": "5"} for call in said["tool_calls"]]
    answer = chat(client, messages=[asked, said, *told], tools=TOOLS, max_tokens=3)
    assert answer.status_code == 200
    alone = chat(client, messages=[asked], tools=TOOLS, max_tokens=3)
    read = [one.json()["usage"]["prompt_tokens"] for one in (alone, answer)]
    assert read[1] > read[0] + 20


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS, "tool_choice": "none"}], ids=["not offered", "none"])
def test_where_no_tool_may_be_called_a_call_is_text(client, more):
    (choice,) = chat(client, "what is red", **more).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALLS, "stop")
    assert "tool_calls" not in choice["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_client_of_the_api_reads_the_calls(client):
    openai = pytest.importorskip("openai")
    completions = openai.OpenAI(
        api_key="any", base_url=str(client.base_url.join("/v1")), http_client=client
    ).chat.completions
    asked = [{"role": "user", "content": "what is red"}]
    answer = completions.create(model="deepseek-reasoner", messages=asked, tools=TOOLS, temperature=0)
    calls = answer.choices[0].message.tool_calls
    found = [(call.function.name, json.loads(call.function.arguments)) for call in calls]
    assert found == [("add", {"a": 2, "b": 3}), ("now", {})]
