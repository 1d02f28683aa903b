"""What one key and everybody together may ask for, as clients of a server with low limits meet it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.serve.conftest import Serving, chat, serving

from thinkery.serve.ledger import Ledger

LIMITS = (
    "limits.requests_per_minute=3",
    "limits.tokens_per_minute=100",
    "limits.waiting=2",
    "limits.messages=3",
    'allowed_hosts=["box.example"]',
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server runs."""
    return tmp_path_factory.mktemp("limited")


@pytest.fixture(scope="module")
def secrets(folder: Path) -> Iterator[str]:
    """Secrets of keys of which nobody has asked anything."""
    ledger = Ledger(folder / "runs" / "serve.db")
    made = [ledger.create_key(str(number))[1] for number in range(12)]
    ledger.close()
    return iter(made)


@pytest.fixture(scope="module")
def server(thinker: Path, folder: Path, secrets: Iterator[str]) -> Iterator[Serving]:
    """The thinker, with low limits."""
    with serving(thinker, *LIMITS, folder=folder) as one:
        yield one


@pytest.fixture
def client(server: Serving, secrets: Iterator[str]) -> Iterator[httpx.Client]:
    """A client with a key of its own."""
    with server.client(authorization=f"Bearer {next(secrets)}") as one:
        yield one


def refused(response: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message of a refusal."""
    error = response.json()["error"]
    return response.status_code, error["type"], error["message"]


SLOW_DOWN = (429, "rate_limit_error", "Rate limit reached for this api key, please slow down")


def test_a_key_is_told_its_rates_until_it_has_to_wait(client, server, secrets):
    answers = [chat(client, "hi", max_tokens=1) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429]
    told = answers[0].headers
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("3", "2")
    assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("100", "100")
    used = answers[0].json()["usage"]["total_tokens"]
    assert 100 - used <= int(answers[1].headers["x-ratelimit-remaining-tokens"]) < 100
    assert refused(answers[3]) == SLOW_DOWN
    assert 1 <= int(answers[3].headers["retry-after"]) <= 20
    assert answers[3].headers["x-ratelimit-remaining-requests"] == "0"
    assert client.get("/models").status_code == 200
    with server.client(authorization=f"Bearer {next(secrets)}") as other:
        assert chat(other, "hi", max_tokens=1).status_code == 200


def test_tokens_are_counted_where_requests_are_few(client):
    used = chat(client, "what is red and why " * 40, max_tokens=1).json()["usage"]["total_tokens"]
    assert used > 200
    answer = chat(client, "hi", max_tokens=1)
    assert refused(answer) == SLOW_DOWN
    assert int(answer.headers["retry-after"]) > (used - 100) * 60 / 100 - 15
    assert answer.headers["x-ratelimit-remaining-tokens"] == "0"


def test_more_answers_than_there_is_room_for_are_an_overload(client, server, secrets):
    body = {"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "hi"}], "stream": True, "n": 2}
    endless = {**body, "logit_bias": {"0": -100}, "max_tokens": 4000}
    with server.client(authorization=f"Bearer {next(secrets)}") as other:
        with client.stream("POST", "/chat/completions", json=endless) as answer:
            lines = answer.iter_lines()  # kept, since the client hangs up when nothing reads any more
            next(lines)
            full = chat(other, "hi", max_tokens=1)
        assert refused(full) == (503, "server_error", "The server is overloaded, please retry later")
        assert int(full.headers["retry-after"]) > 0
        assert refused(chat(other, "hi", n=3))[0] == 503
        wait_until(lambda: " cancelled prompt=" in server.log.read_text())
        assert chat(other, "hi", max_tokens=1).status_code == 200


def wait_until(done: Callable[[], bool]) -> None:
    """Return when it is so."""
    patience = time.monotonic() + 60
    while not done():
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_a_conversation_has_a_number_of_messages(client):
    assert chat(client, "a", "b", "c", max_tokens=1).status_code == 200
    message = "Invalid messages value, at most 3 messages are supported"
    assert refused(chat(client, "a", "b", "c", "d")) == (400, "invalid_request_error", message)


@pytest.mark.parametrize(
    ("host", "status"),
    [("box.example:8000", 200), ("Box.Example", 200), ("other.example", 403), ("x.box.example", 403)],
)
def test_a_name_that_is_allowed_is_admitted(client, host, status):
    assert client.get("/models", headers={"host": host}).status_code == status
