"""vLLM behind the server: what it lacks is refused; with vLLM at hand, the contract holds as with the built-in engine.

THINKERY_VLLM=/opt/vllm/bin/python pytest -m slow tests/serve/test_vllm.py     # where it is not in the usual place
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serve.conftest import ANSWER, THOUGHT, Serving, chat, events, serving, taught
from tests.serve.test_reading import MODEL
from tests.vllms import vllm_python

from thinkery.errors import UsageError
from thinkery.serve.config import Limits, Serve
from thinkery.serve.ledger import Ledger
from thinkery.serve.profiles import PROFILES
from thinkery.serve.reading import Reader
from thinkery.serve.refusals import Refusal
from thinkery.serve.server import require_able
from thinkery.serve.wire import ChatRequest, CompletionRequest

READER = Reader(PROFILES["compat"], Limits(), "vllm")
LONG = "ball cup what two is red why sum " * 30


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"max_reasoning_tokens": 5}, "max_reasoning_tokens"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_vllm_is_not_asked_for_is_refused_by_name(asked, name):
    if name == "response_format":
        pytest.importorskip("llguidance")
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **asked}
    with pytest.raises(Refusal) as caught:
        READER.chat(ChatRequest.model_validate(body), MODEL, "key")
    message = f"{name} is not supported by the engine of this server (vLLM); the built-in one has it"
    assert (caught.value.status, caught.value.message) == (400, message)


def test_what_changes_nothing_is_taken():
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "frequency_penalty": 0, "logit_bias": {}}
    (job,) = READER.chat(ChatRequest.model_validate(body), MODEL, "key")
    assert job.max_thought is None
    scored = {"model": "m", "prompt": "x", "echo": True, "logprobs": 0}
    with pytest.raises(Refusal, match="echo with logprobs"):
        READER.completions(CompletionRequest.model_validate(scored), MODEL, "key")


@pytest.mark.parametrize("wrong", [{"deterministic": True}, {"quantization": "int8"}, {"api_profile": "r1-2025-01"}])
def test_settings_that_vllm_cannot_follow_are_refused_before_it_starts(wrong):
    require_able(Serve.model_validate({"engine": "vllm"}))
    require_able(Serve.model_validate(wrong))
    with pytest.raises(UsageError):
        require_able(Serve.model_validate({"engine": "vllm", **wrong}))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The thinker with wider heads: vLLM has no kernel for those of 16."""
    return taught(tmp_path_factory.mktemp("models") / "wide", head_dim=32)


@pytest.fixture(scope="module")
def vllm(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The wide thinker, served by vLLM in float32, with two keys."""
    python = vllm_python()
    folder = tmp_path_factory.mktemp("vllm")
    ledger = Ledger(folder / "runs" / "serve.db")
    secrets = [ledger.create_key(name)[1] for name in ("one", "other")]
    ledger.close()
    (folder / "secrets.json").write_text(json.dumps(secrets))
    settings = (
        "engine=vllm",
        f"vllm.python={python}",
        "dtype=float32",
        "max_len=1024",
        "max_batch=8",
        "kv_memory=0.5",
        'vllm.arguments=["--enforce-eager"]',
    )
    with serving(wide, *settings, folder=folder) as one:
        yield one
        one.process.terminate()
        one.process.wait(60)


@pytest.fixture
def secrets(vllm: Serving) -> list[str]:
    """The secrets of the two keys."""
    return json.loads((vllm.log.parent / "secrets.json").read_text())


@pytest.fixture
def client(vllm, secrets):
    with vllm.client(authorization=f"Bearer {secrets[0]}") as one:
        yield one


@pytest.mark.slow
def test_vllm_says_what_the_built_in_engine_says(client, wide, tmp_path):
    data = chat(client, "what is red").json()
    assert data["choices"][0]["message"] == {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}
    with serving(wide, "dtype=float32", folder=tmp_path) as server, server.client() as own:
        native = chat(own, "what is red", logprobs=True, top_logprobs=3).json()
    assert data["usage"] == native["usage"]
    marks = chat(client, "what is red", logprobs=True, top_logprobs=3).json()["choices"][0]["logprobs"]
    for kind in ("content", "reasoning_content"):
        ours = native["choices"][0]["logprobs"][kind]
        assert [mark["token"] for mark in marks[kind]] == [mark["token"] for mark in ours]
        assert [mark["logprob"] for mark in marks[kind]] == pytest.approx([mark["logprob"] for mark in ours], abs=1e-3)
        assert {len(mark["top_logprobs"]) for mark in marks[kind]} == {3}


@pytest.mark.slow
def test_a_stream_of_vllm_is_its_answer_in_pieces(client):
    settings = {"temperature": 1.5, "seed": 7, "max_tokens": 60, "n": 3}
    whole = chat(client, "two", **settings).json()
    said = {n: {"content": "", "reasoning_content": ""} for n in range(3)}
    chunks = events(chat(client, "two", stream=True, **settings))
    for chunk in chunks:
        for kind, text in said[chunk["choices"][0]["index"]].items():
            said[chunk["choices"][0]["index"]][kind] = text + (chunk["choices"][0]["delta"].get(kind) or "")
    assert len(chunks) > 20
    assert [{"role": "assistant", **said[n]} for n in range(3)] == [one["message"] for one in whole["choices"]]
    assert len({str(one) for one in said.values()}) == 3
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


@pytest.mark.slow
def test_stop_and_length_end_an_answer_of_vllm(client):
    data = chat(client, "hi", stop=["how"]).json()
    assert (data["choices"][0]["message"]["content"], data["choices"][0]["finish_reason"]) == ("Hello there, ", "stop")
    data = chat(client, "hi", max_tokens=9).json()
    assert (data["choices"][0]["finish_reason"], data["usage"]["completion_tokens"]) == ("length", 9)


@pytest.mark.slow
def test_hits_are_what_vllm_reused_and_of_one_key_only(client, secrets):
    def hit(secret: str) -> int:
        client.headers["authorization"] = f"Bearer {secret}"
        usage = chat(client, LONG, max_tokens=2).json()["usage"]
        assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"]
        return usage["prompt_cache_hit_tokens"]

    first, again = hit(secrets[0]), hit(secrets[0])
    assert (first, again % 64) == (0, 0)
    assert again >= 128
    assert hit(secrets[1]) == 0


@pytest.mark.slow
def test_a_client_of_vllm_that_hangs_up_is_charged_for_what_came(client, vllm):
    body = {"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with client.stream("POST", "/chat/completions", json={**body, "temperature": 2, "max_tokens": 900}) as answer:
        lines = answer.iter_lines()
        for _ in range(12):
            next(lines)
    database = sqlite3.connect(vllm.log.parent / "runs" / "serve.db")
    patience = time.monotonic() + 30
    while not (rows := list(database.execute("SELECT completion FROM ledger WHERE cancelled"))):
        assert time.monotonic() < patience
        time.sleep(0.05)
    database.close()
    assert 3 <= rows[0][0] < 900
    assert chat(client, "hi").json()["choices"][0]["message"]["content"] == ANSWER
