"""A server's life: it opens its model, is ready while an engine lives, loses clients that do not listen, and stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress

import httpx
import pytest
from tests.serve.conftest import ANSWER, Serving, chat, endless, rows, serving
from tests.serve.processes import opening, until

from thinkery.pipeline.prices import Prices
from thinkery.serve.till import Till

LOUD = {"n": 4, "logprobs": True, "top_logprobs": 20}
"""More than 1,500 bytes for a token of each of four answers."""


def test_a_server_is_ready_when_its_model_is_open_and_while_an_engine_lives(thinker, tmp_path):
    with opening(thinker, folder=tmp_path) as (_, engine, client):
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "The model is being opened")
        assert int(answer.headers["retry-after"]) > 0
        os.kill(engine, signal.SIGCONT)
        until(lambda: client.get("/ready").status_code == 200)
        os.kill(engine, signal.SIGKILL)
        until(lambda: client.get("/ready").status_code == 503)
        until(lambda: client.get("/ready").status_code == 200)
        assert chat(client, "hi").json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_is_being_opened_stops_the_server(thinker, tmp_path, number):
    with opening(thinker, folder=tmp_path) as (process, engine, _):
        process.send_signal(number)
        assert process.wait(20) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(engine, 0)


def test_a_second_signal_stops_at_once_and_what_was_said_is_charged(talker, tmp_path):
    with (
        serving(talker, "limits.drain_s=600", folder=tmp_path) as server,
        server.client() as client,
        client.stream("POST", "/chat/completions", json=endless()) as answer,
    ):
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        heard = [next(lines) for _ in range(20)]
        server.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/ready").status_code == 503)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
    book = tmp_path / "runs" / "serve.db"
    Till(book, Prices(), 1).close()  # charges what was left, if anything was
    (row,) = rows(book)
    assert len(heard) - 1 <= row["completion"] < 60_000


def deaf(server: Serving, body: dict) -> socket.socket:
    """A client that asks and reads nothing of the answer."""
    address, data = httpx.URL(server.url), json.dumps(body).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((address.host, address.port))
    head = f"POST /chat/completions HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + data)
    return client


def test_a_client_that_stops_reading_is_cut_off_and_charged_for_what_was_generated(talker, tmp_path):
    book = tmp_path / "runs" / "serve.db"
    with serving(talker, "limits.send_s=0.3", folder=tmp_path) as server, server.client() as client:
        with deaf(server, {**endless(), **LOUD, "max_tokens": 15_000}) as silent:
            until(lambda: rows(book))
            silent.settimeout(20)
            with suppress(ConnectionResetError):
                while silent.recv(2**20):  # what was on its way, and then the end
                    pass
        assert "thinkery:num_requests_running 0.0" in client.get("/metrics").text
        assert chat(client, "hi").json()["choices"][0]["message"]["content"] == ANSWER
    row = rows(book)[0]
    assert (row["finish"], row["cancelled"]) == ("cancelled", 1)
    assert 100 < row["completion"] < 60_000


def test_a_client_that_does_not_read_cannot_keep_the_server_from_stopping(thinker, tmp_path):
    book = tmp_path / "runs" / "serve.db"
    with (
        serving(thinker, "limits.drain_s=0.2", folder=tmp_path) as server,
        server.client() as client,
        deaf(server, {**endless(), **LOUD, "max_tokens": 1000}),
    ):
        until(lambda: "num_requests_running 4.0" in client.get("/metrics").text)
        until(lambda: "num_requests_running 0.0" in client.get("/metrics").text)
        assert rows(book) == []  # all of it is generated and cannot be sent
        server.process.terminate()
        begun = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - begun < 15
    (row,) = rows(book)
    assert row["completion"] == 4000
