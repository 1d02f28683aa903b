"""Time: what waits too long or takes too long ends with an error, and a stream that waits says that it lives."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest
from tests.serve.conftest import chat, events, serving

LIMITS = ("max_batch=1", "limits.queue_s=1", "limits.request_s=5", "keep_alive_s=0.1")
ENDLESS = {"logit_bias": {"0": -100}, "max_tokens": 50_000, "stream": True}


@pytest.fixture
def talker(thinker, tmp_path) -> Path:
    """The same network with room for answers that take longer than any test waits."""
    folder = shutil.copytree(thinker, tmp_path / "talker")
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 2**16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_who_waits_or_takes_too_long_is_told_so_and_charged_for_what_came(talker, tmp_path):
    with serving(talker, *LIMITS, folder=tmp_path) as server, server.client() as client, server.client() as other:
        first: list[httpx.Response] = []
        taking = threading.Thread(target=lambda: first.append(chat(client, "hi", **ENDLESS)))
        taking.start()
        while taking.is_alive() and "num_requests_running 1.0" not in other.get("/metrics").text:
            time.sleep(0.01)
        waiting = chat(other, "and I?", stream=True).text.split("\n\n")
        refused = chat(other, "and I?")
        taking.join()
    *alive, error, end = waiting
    assert (set(alive), end) == ({": keep-alive"}, "")
    assert 3 < len(alive) < 12
    message = "The request waited 1 seconds for its turn"
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == message
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, message)
    assert int(refused.headers["retry-after"]) > 0
    *said, error, _ = first[0].text.split("\n\n")
    assert len(said) > 10
    error = json.loads(error.removeprefix("data: "))["error"]
    assert error["message"] == "The answer took longer than the server allows (5 seconds)"
    database = sqlite3.connect(tmp_path / "runs" / "serve.db")
    rows = list(database.execute("SELECT finish, completion > 10, prompt > 0 FROM ledger ORDER BY completion"))
    database.close()
    assert rows == [("error", 0, 0), ("error", 0, 0), ("error", 1, 1)]


def test_a_thought_that_was_never_closed_is_counted_and_may_stand_in_for_the_answer(thinker, tmp_path):
    with serving(thinker, "promote_unclosed=true", folder=tmp_path) as server, server.client() as client:
        message = chat(client, "hi", max_tokens=9).json()["choices"][0]["message"]
        deltas = [one["choices"][0]["delta"] for one in events(chat(client, "hi", max_tokens=9, stream=True))]
        metrics = client.get("/metrics").text
    assert message["content"] == message["reasoning_content"] != ""
    for kind in ("content", "reasoning_content"):
        assert "".join(delta[kind] or "" for delta in deltas) == message[kind]
    assert "thinkery:unterminated_thoughts_total 2.0" in metrics
