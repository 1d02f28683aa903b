"""Requests that are odd and clients that hang up: nobody else is harmed, and nobody pays for what was not done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.serve.conftest import TOOL_CHAT, Serving, serving, taught
from tests.serve.processes import children, until

from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.reading import as_tokens

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("add", "now")]
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The embedded base with positions for long prompts, and a template that knows tools."""
    path = tmp_path_factory.mktemp("odd")
    shutil.copytree(locate("tiny"), path / "long")
    shape = json.loads((path / "long" / "config.json").read_text())
    (path / "long" / "config.json").write_text(json.dumps({**shape, "max_position_embeddings": 65_536}))
    (path / "long" / "chat_template.jinja").write_text(TOOL_CHAT)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    with serving("long", "keep_alive_s=0.1", folder=folder) as one:
        yield one


@pytest.fixture
def client(server: Serving) -> Iterator[httpx.Client]:
    with server.client() as one:
        yield one


def ask(client: httpx.Client, path: str = "/chat/completions", **more) -> httpx.Response:
    if path == "/chat/completions":
        more = {"messages": HI, **more}
    return client.post(path, content=json.dumps({"model": "deepseek-reasoner", "max_tokens": 4, **more}))


def rows(path: Path) -> list[dict]:
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    found = [dict(row) for row in database.execute("SELECT * FROM ledger ORDER BY time")]
    database.close()
    return found


def test_a_temperature_next_to_nothing_takes_no_replica_with_it(server, client):
    before = children(server.process.pid)
    assert ask(client, temperature=1e-300).status_code == 200
    assert children(server.process.pid) == before


def test_a_call_of_too_deep_json_takes_no_replica_with_it(server, client):
    before = children(server.process.pid)
    schema = {"const": "<tool_call>" + "[" * 1500 + "</tool_call>"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answered = ask(client, tools=TOOLS, max_tokens=6000, max_reasoning_tokens=0, response_format=form)
    assert answered.status_code == 200
    assert children(server.process.pid) == before


def test_who_hangs_up_while_a_prompt_is_read_is_paid_nothing(folder, server, client):
    prompt = list(range(10, 900)) * 23
    assert ask(client, "/v1/completions", prompt=prompt[:9000]).status_code == 200
    body = {"model": "deepseek-reasoner", "prompt": prompt[:8960] + [5] * 40_000, "max_tokens": 1, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        time.sleep(1)
        assert response.status_code == 200
    until(lambda: rows(folder / "runs" / "serve.db")[-1]["cancelled"])
    row = rows(folder / "runs" / "serve.db")[-1]
    assert (row["prompt"], row["hit"], row["miss"], row["cost"]) == (0, 0, 0, 0)


def test_a_prompt_of_token_ids_goes_through_the_vocabulary_once(monkeypatch):
    tokenizer, asked = Tokenizer.load(locate("tiny")), []
    size = tokenizer.vocab_size
    monkeypatch.setattr(Tokenizer, "vocab_size", property(lambda self: asked.append(1) or size))
    assert as_tokens([5] * 1000, tokenizer) == (5,) * 1000
    assert len(asked) == 1


def test_a_stream_whose_text_is_all_held_back_says_that_it_lives(client):
    (newline,) = Tokenizer.load(locate("tiny")).encode("\n")
    answered = ask(client, stream=True, max_tokens=3000, temperature=0, logit_bias={str(newline): 100})
    assert ": keep-alive" in answered.text


def schema_of(value: str, depth: int = 0) -> str:
    schema = '{"properties":{"a":' * depth + '{"type":"number","maximum":' + value + "}" + "}}" * depth
    form = '{"type":"json_schema","json_schema":{"name":"x","schema":' + schema + "}}"
    return '{"model":"deepseek-reasoner","messages":[{"role":"user","content":"x"}],"response_format":' + form + "}"


@pytest.mark.parametrize(("value", "depth"), [("1e400", 0), ("NaN", 0), ("7", 80)])
def test_a_schema_that_is_no_json_or_too_deep_is_refused(client, value, depth):
    answered = client.post("/chat/completions", content=schema_of(value, depth))
    assert answered.status_code == 400
    assert "response_format" in answered.json()["error"]["message"]


def test_half_a_surrogate_pair_in_the_arguments_of_a_call_is_refused(client):
    call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": "\\ud83d"}'}}
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "5"},
    ]
    assert ask(client, messages=messages, tools=TOOLS).status_code == 400


def test_no_prompt_at_all_is_refused(client):
    assert ask(client, "/v1/completions", prompt=[]).status_code == 400


def test_no_token_is_asked_for_only_with_log_probabilities(client):
    assert ask(client, "/v1/completions", prompt="hi", echo=True, max_tokens=0).status_code == 400


def test_an_origin_that_is_none_is_refused_in_the_words_of_the_api(client):
    answered = client.get("/models", headers={"Origin": "http://["})
    assert answered.status_code == 403
    assert answered.json()["error"]["code"] == "invalid_request_error"


def test_of_parts_of_characters_the_likeliest_is_told(client):
    bias = {str(id): 60 - n for n, id in enumerate(range(95, 103))}
    choice = ask(client, "/v1/completions", prompt="hi", temperature=1, logprobs=5, logit_bias=bias).json()["choices"]
    told = choice[0]["logprobs"]
    for top, said in zip(told["top_logprobs"], told["token_logprobs"], strict=True):
        assert top["\ufffd"] > said - 1e-3


def test_a_default_request_fits_into_the_memory_there_is(folder, tmp_path):
    words = (folder / "long", "kv_memory=0.002")
    with serving(*words, folder=tmp_path) as server, server.client() as client:
        body = {"model": "deepseek-reasoner", "messages": HI}
        assert client.post("/chat/completions", json=body).status_code == 200


def test_nobody_computes_for_a_client_that_hung_up_before_its_replica_was_lost(folder, tmp_path):
    body = {"model": "deepseek-reasoner", "messages": HI, "max_tokens": 20_000, "logit_bias": {"0": -100}}
    with serving(folder / "long", folder=tmp_path) as server, server.client() as client:
        (replica,) = children(server.process.pid)
        os.kill(replica, signal.SIGSTOP)
        with pytest.raises(httpx.TimeoutException):
            client.post("/chat/completions", json=body, timeout=1)
        time.sleep(0.5)
        os.kill(replica, signal.SIGKILL)
        until(lambda: rows(tmp_path / "runs" / "serve.db"), patience_s=20)
    (row,) = rows(tmp_path / "runs" / "serve.db")
    assert (row["finish"], row["completion"], row["cost"]) == ("cancelled", 0, 0)


def test_half_a_surrogate_pair_that_a_model_writes_stays_text(tmp_path):
    said = '<tool_call>{"name": "add", "arguments": {"a": "\\ud83d"}}</tool_call>'
    taught(tmp_path / "model", head_dim=16, answer=said, template=TOOL_CHAT, system="add, now")
    with serving("model", folder=tmp_path) as server, server.client() as client:
        body = {"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "what is red"}]}
        body |= {"tools": TOOLS, "temperature": 0, "max_tokens": 90}
        answered = client.post("/chat/completions", json=body)
        streamed = client.post("/chat/completions", json={**body, "stream": True})
    assert answered.status_code == 200
    assert "<tool_call>" in answered.json()["choices"][0]["message"]["content"]
    assert streamed.text.endswith("data: [DONE]\n\n")
