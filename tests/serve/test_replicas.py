"""Several engine processes behind one door: routed by prefix, and one that dies takes few requests with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from tests.serve.conftest import ANSWER, chat, events, serving
from tests.serve.processes import children


def wait_for(client: httpx.Client, line: str) -> None:
    """Return when the metrics say so."""
    patience = time.monotonic() + 120
    while line not in client.get("/metrics").text:
        assert time.monotonic() < patience, line
        time.sleep(0.01)


def test_a_replica_that_is_killed_loses_only_what_it_had_begun(thinker, tmp_path):
    with serving(thinker, "replicas=2", folder=tmp_path) as server, server.client() as client:
        wait_for(client, "replicas_ready 2.0")
        with ThreadPoolExecutor(2) as pool:  # one for each, which loads the model there
            warm = [pool.submit(chat, client, text) for text in ("a", "b")]
        assert [one.result().json()["choices"][0]["message"]["content"] for one in warm] == [ANSWER] * 2
        before = children(server.process.pid)
        assert len(before) == 2
        long = {"logit_bias": {"0": -100}, "max_tokens": 800, "stream": True}
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(chat, client, text, **long) for text in ("one", "two")]
            wait_for(client, "num_requests_running 2.0")
            os.kill(before[0], signal.SIGKILL)
            answers = [future.result() for future in asked]
        whole = [answer for answer in answers if answer.text.endswith("data: [DONE]\n\n")]
        (lost,) = [answer for answer in answers if answer not in whole]
        assert events(whole[0])[-1]["choices"][0]["finish_reason"] == "length"
        assert "The engine process was lost" in lost.text
        assert [chat(client, str(i)).status_code for i in range(4)] == [200] * 4
        assert len(children(server.process.pid)) == 2


def test_requests_that_a_killed_replica_had_not_begun_are_answered_by_another(thinker, tmp_path):
    with serving(thinker, "replicas=2", "max_batch=1", folder=tmp_path) as server, server.client() as client:
        wait_for(client, "replicas_ready 2.0")
        before = children(server.process.pid)
        long = {"logit_bias": {"0": -100}, "max_tokens": 1200}
        with ThreadPoolExecutor(6) as pool:
            begun = [pool.submit(chat, client, text, **long) for text in ("one", "two")]
            wait_for(client, "num_requests_running 2.0")
            queued = [pool.submit(chat, client, text) for text in ("a", "b", "c", "d")]
            wait_for(client, "num_requests_waiting 4.0")
            os.kill(before[0], signal.SIGKILL)
            lost = [one.result() for one in begun if one.result().status_code != 200]
            answers = [one.result().json() for one in queued]
        assert [one.json()["error"]["message"] for one in lost] == ["The engine process was lost; please retry"]
        assert [one["choices"][0]["message"]["content"] for one in answers] == [ANSWER] * 4


def test_requests_go_where_their_prefix_is_known(thinker, tmp_path):
    text = "what is red and why " * 40
    with serving(thinker, "replicas=2", folder=tmp_path) as server, server.client() as client:
        wait_for(client, "replicas_ready 2.0")
        for _ in range(3):
            chat(client, "something else", max_tokens=1)
        hits = [chat(client, text, max_tokens=1).json()["usage"]["prompt_cache_hit_tokens"] for _ in range(3)]
    assert hits[0] == 0
    assert hits[1] == hits[2] > 200


def test_a_model_that_cannot_be_opened_is_one_clear_error(thinker, tmp_path):
    """It is found in the replica; what is told is told once, without where in our code it was found."""
    broken = shutil.copytree(thinker, tmp_path / "broken")
    config = broken / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    command = [sys.executable, "-m", "thinkery.cli", "serve", str(broken), "port=0", "threads=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 4
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert (
        "broken: the weights are not those of the architecture in config.json (found missing: model.layers.2"
        in lines[0]
    )
    assert lines[1] == "  try: take config.json and weights of one and the same model"
