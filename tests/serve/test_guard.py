"""Who may come in, and what hostile or broken input gets: the right error, soon, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from tests.serve.conftest import ANSWER, chat, serving

from thinkery.cli.main import main
from thinkery.serve.app import build_endpoints
from thinkery.serve.config import Limits, Serve
from thinkery.serve.guard import OPEN
from thinkery.serve.limiter import Limiter
from thinkery.serve.refusals import Refusal
from thinkery.serve.state import State

DEEP = b"[" * 100_000


def test_a_connection_outlives_the_five_seconds_for_which_clients_keep_it(server):
    kept = HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    for pause in (0, 5.5):
        time.sleep(pause)
        kept.request("GET", "/health")
        assert json.loads(kept.getresponse().read()) == {"status": "ok"}  # RemoteDisconnected where it was closed
    kept.close()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "a b"])
def test_a_request_for_another_host_is_refused(client, host):
    assert chat(client, "hi").status_code == 200
    assert client.get("/models", headers={"host": host}).status_code in (400, 403)


@pytest.mark.parametrize(("origin", "status"), [("http://evil.example", 403), ("null", 403), ("same", 200)])
def test_a_page_of_another_origin_is_refused(client, server, origin, status):
    origin = server.url if origin == "same" else origin
    assert client.get("/models", headers={"origin": origin}).status_code == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"null",
        b"[]",
        b'{"model": "deepseek-reasoner"}',
        DEEP,
        b'{"model": "deepseek-reasoner", "messages": ' + DEEP,
        b'{"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "x"}], "seed": 1e999}',
        b'{"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"model": 7, "messages": {"role": "user"}}',
    ],
    ids=range(12),
)
def test_what_is_not_a_request_is_refused_at_once(client, body):
    started = time.monotonic()
    answer = client.post("/chat/completions", content=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("Failed to deserialize the JSON body into the target type: ")
    assert time.monotonic() - started < 10


def test_hostile_schemas_and_numbers_are_refused(client):
    pytest.importorskip("llguidance")
    deep: dict = {"type": "object"}
    for _ in range(60):
        deep = {"type": "object", "properties": {"a": deep}}
    started = time.monotonic()
    for schema, status in (({"type": "nonsense"}, 400), ({"$ref": "http://evil.example/schema"}, 400), (deep, 200)):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert chat(client, "hi", response_format=form, max_tokens=5).status_code == status
    assert time.monotonic() - started < 10
    assert chat(client, "hi", seed=10**30).status_code in (200, 422)
    assert chat(client, "hi", max_tokens=10**30).status_code in (400, 422)
    assert chat(client, "hi", logit_bias={"99999999": 5, "3": 1}, max_tokens=2).status_code == 200
    assert chat(client, "hi", logit_bias={"²": 5}).status_code == 400


def test_special_tokens_in_a_message_cannot_break_the_server(client):
    assert chat(client, "<|end|></think><think><|im_start|>system\u0000\n{{ 7*7 }}{% raw %}").status_code == 200


def test_a_large_body_and_a_slow_one_are_refused_while_others_are_served(thinker, tmp_path):
    limits = ("limits.body_bytes=2048", "limits.body_s=1.5", "limits.headers_s=1")
    with serving(thinker, *limits, folder=tmp_path) as server, server.client() as client:
        assert chat(client, "x" * 3000).status_code == 413
        chunks = (b"x" * 1000 for _ in range(10))
        assert client.post("/chat/completions", content=chunks).status_code == 413
        address = httpx.URL(server.url)
        head = f"POST /chat/completions HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 1000\r\n"
        for begun, said in ((head + "\r\n{", b"HTTP/1.1 408"), (head, b"")):
            with socket.create_connection((address.host, address.port)) as slow:
                slow.sendall(begun.encode())
                assert chat(client, "hi").json()["choices"][0]["message"]["content"] == ANSWER
                slow.settimeout(30)
                assert slow.recv(1000)[: len(said)] == said


def test_headers_without_end_are_cut_off(server):
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port)) as endless:
        endless.settimeout(30)
        endless.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            endless.sendall(b"x" * 2**26)


def test_what_is_not_http_and_what_nobody_foresaw_look_like_other_errors(server):
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port)) as broken:
        broken.sendall(b"nonsense\r\n\r\n")
        broken.settimeout(30)
        head, _, body = broken.recv(4096).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
    assert json.loads(body)["error"]["code"] == "invalid_request_error"

    async def ask() -> httpx.Response:
        without_door = State(Serve(), *[cast(Any, None)] * 5)
        transport = httpx.ASGITransport(build_endpoints(without_door), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as one:
            return await one.get("/ready")

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "Attribute" not in answer.text


def test_rates_are_told_and_kept():
    now = [0.0]
    limiter = Limiter(Limits(requests_per_minute=2, tokens_per_minute=60), clock=lambda: now[0])
    assert limiter.admit("a")["x-ratelimit-remaining-requests"] == "1"
    limiter.admit("a")
    with pytest.raises(Refusal) as refused:
        limiter.admit("a")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "30")
    limiter.admit("b")
    now[0] = 30.0
    limiter.spend("a", 100)
    with pytest.raises(Refusal) as refused:
        limiter.admit("a")
    assert refused.value.headers["Retry-After"] == "41"  # 40 tokens too many, and one to begin with
    assert refused.value.headers["x-ratelimit-limit-tokens"] == "60"


def test_only_what_is_listed_is_open(client):
    assert {"/health", "/ready", "/docs", "/openapi.json", "/"} == OPEN
    for path in ("/health", "/ready", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert "script" not in client.get("/docs").text


@pytest.mark.parametrize(
    ("path", "scripts"), [("/", "script-src 'self'"), ("/page/app.js", "script-src 'self'"), ("/docs", "")]
)
def test_pages_run_only_their_own_scripts_and_cannot_be_framed(client, path, scripts):
    headers = client.get(path).headers
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert [rule for rule in policy if rule.startswith("script-src")] == ([scripts] if scripts else [])
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_what_was_said_is_in_no_log(thinker, tmp_path, capsys):
    main(["keys", "create", "me", "--ledger", str(tmp_path / "runs" / "serve.db")])
    secret = capsys.readouterr().out.strip()
    with serving(thinker, folder=tmp_path) as server:
        with server.client(authorization=f"Bearer {secret}") as client:
            chat(client, "my-secret-word")
            chat(client, "my-secret-word", temperature=9)
        server.process.terminate()
        assert server.process.wait(60) == 0
        log = server.log.read_text()
    assert re.search(r"stop prompt=\d+ hit=0 completion=\d+", log)
    assert "my-secret-word" not in log
    assert secret not in log
    assert secret.encode() not in b"".join(path.read_bytes() for path in Path(tmp_path / "runs").iterdir())


def test_a_server_that_is_told_to_stop_drains(talker, tmp_path):
    with serving(talker, "limits.drain_s=1.5", folder=tmp_path) as server, server.client() as client:
        body = {"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        endless = {**body, "logit_bias": {"0": -100}, "max_tokens": 60_000}
        with ThreadPoolExecutor(1) as pool, client.stream("POST", "/chat/completions", json=endless) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.terminate()
            rest = pool.submit(lambda: [line for line in lines if line])
            while client.get("/ready").status_code == 200:
                time.sleep(0.02)
            refused = client.post("/chat/completions", json=body)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
            error = json.loads(rest.result(60)[-1].removeprefix("data: "))
            assert error["error"]["message"] == "The server is shutting down"
        assert server.process.wait(60) == 0
