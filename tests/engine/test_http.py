"""The remote engine against a real server on loopback that misbehaves on command."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from thinkery.core import Message, Sampling
from thinkery.engine import Request, generate
from thinkery.engine.http import HttpConfig, HttpEngine
from thinkery.errors import DiskFull, EnvironmentLacks, InputError, RunFailed, UsageError

ASK = Request((11, 12), Sampling(temperature=0.6, top_p=0.95, max_tokens=20), (Message("user", "2+2?"),))

ONE = Request((11,), ASK.sampling, ASK.messages)


def answer(content="4", reasoning=None, finish="stop", usage=(10, 5)):
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    data = {"choices": [{"message": message, "finish_reason": finish}]}
    return data | ({"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}} if usage else {})


@contextmanager
def server(*script, then=None):
    """Plays `script`, then `then` for ever; yields its address and what it received.

    A step of the script is a status code, a JSON object, bytes, or a number of seconds to hang.
    """
    script, received, lock, end = list(script), [], threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                received.append((self.path, dict(self.headers), body))
                step = script.pop(0) if script else (then or answer())
            if isinstance(step, float):
                end.wait(step)
                step = answer()
            status = step if isinstance(step, int) else 200
            text = step if isinstance(step, bytes) else json.dumps({"error": "no"} if status != 200 else step).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("retry-after", "0.2")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format, *args): ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address): ...

    service = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{service.server_port}/v1", received
    finally:
        end.set()
        service.shutdown()
        thread.join()
        service.server_close()


@contextmanager
def opened(**settings):
    engine = HttpEngine(HttpConfig(model="m", **settings))
    try:
        yield engine
    finally:
        engine.release()


def asked(url, request=ASK, **settings):
    """Completions by sample, and the engine."""
    with opened(url=url, backoff_s=0.01, **settings) as engine:
        [(_, events)] = generate(engine, [request], patience_s=20)
        return [event.completion for event in events], engine


def heard(engine, events: list) -> None:
    """All that an engine says until it raises."""
    while True:
        events += engine.step()


def test_each_sample_is_one_request_with_its_own_seed():
    with server() as (url, received):
        completions, engine = asked(url)
    assert [c.answer for c in completions] == ["4", "4"]
    assert sorted(body["seed"] for _, _, body in received) == [11, 12]
    path, _, body = received[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "2+2?"}]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.6, 0.95, 20)
    assert (engine.usage.requests, engine.usage.prompt_tokens, engine.usage.completion_tokens) == (2, 20, 10)


def test_the_reasoning_content_of_an_answer_is_the_thought():
    with server(answer("4", "two and two"), then=answer("", "two and", finish="length")) as (url, _):
        completions, _ = asked(url, concurrency=1)
    assert (completions[0].thought, completions[0].answer, completions[0].closed) == ("two and two", "4", True)
    assert (completions[1].thought, completions[1].closed, completions[1].finish) == ("two and", False, "length")


def test_a_thought_in_the_text_is_split_off():
    with server(then=answer("hm</think>4")) as (url, _):
        opened, _ = asked(url, opens_thought=True)
        plain, _ = asked(url)
    assert (opened[0].thought, opened[0].answer) == ("hm", "4")
    assert plain[0].thought is None


@pytest.mark.parametrize("trouble", [500, 503, b"{not json", b"[]", b'{"choices": []}'])
def test_what_goes_wrong_for_a_while_is_tried_again(trouble):
    with server(trouble, trouble) as (url, received):
        completions, engine = asked(url, concurrency=1)
    assert [c.text for c in completions] == ["4", "4"]
    assert len(received) == 4
    assert engine.usage.retries == 2


def test_a_busy_endpoint_is_given_the_time_it_asks_for():
    with server(429) as (url, _):
        start = time.monotonic()
        asked(url, concurrency=1)
        assert time.monotonic() - start >= 0.2


def test_a_request_that_hangs_is_given_up_and_sent_again():
    with server(5.0) as (url, received):
        start = time.monotonic()
        completions, _ = asked(url, timeout_s=0.3, concurrency=1)
        assert time.monotonic() - start < 3
    assert len(completions) == 2
    assert len(received) == 3


def test_a_deadline_ends_a_sample_that_hangs():
    with server(then=5.0) as (url, _):
        request = Request((1,), ASK.sampling, ASK.messages, deadline_s=0.3)
        start = time.monotonic()
        completions, _ = asked(url, request)
        assert time.monotonic() - start < 3
    assert completions[0].finish == "deadline"


def test_lasting_trouble_is_an_error_that_says_what_the_endpoint_said():
    with server(then=500) as (url, received), pytest.raises(RunFailed, match="status 500"):
        asked(url, ONE, tries=2)
    assert len(received) == 2


def test_a_refusal_is_not_tried_again():
    with server(then=401) as (url, received), pytest.raises(RunFailed, match="status 401"):
        asked(url, ONE)
    assert len(received) == 1


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    echo = json.dumps({"choices": [], "you sent": "s3cret"}).encode()
    with server(then=echo) as (url, received), pytest.raises(RunFailed) as caught:
        asked(url, ONE, key="SOME_KEY", tries=1)
    assert received[0][1]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(caught.value)
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(EnvironmentLacks, match="SOME_KEY"):
        asked(url, key="SOME_KEY")


def test_the_cost_cap_stops_before_it_is_exceeded():
    # An answer costs 10 * 1 + 5 * 10 = 60 millionths, and might cost (64 + 4 + 16) * 1 + 20 * 10 = 284.
    prices = {"price_in": 1.0, "price_out": 10.0}
    request = Request(tuple(range(9)), ASK.sampling, ASK.messages)
    with server() as (url, received):
        with pytest.raises(RunFailed, match="cost cap is reached"):
            asked(url, request, **prices, max_cost=500e-6)
        assert len(received) == 4  # after 240 millionths, 260 are left
        _, engine = asked(url, request, **prices, max_cost=800e-6)
    assert engine.usage.cost == pytest.approx(540e-6)


def test_an_endpoint_that_does_not_count_is_assumed_to_have_used_all_it_could():
    with server(then=answer(usage=None)) as (url, _):
        _, engine = asked(url)
    assert (engine.usage.prompt_tokens, engine.usage.completion_tokens) == (168, 40)


def test_cancelled_samples_end_at_once():
    with server(then=2.0) as (url, _), opened(url=url) as engine:
        id = engine.submit(ASK)
        engine.cancel(id)
        events = engine.step()
        assert [event.completion.finish for event in events] == ["cancelled"] * 2
        assert engine.step() == []


def test_what_an_endpoint_cannot_do_is_refused():
    engine = HttpEngine(HttpConfig(url="http://127.0.0.1:9", model="m", concurrency=1))
    with pytest.raises(InputError, match="templates"):
        engine.submit(Request((1,), messages=(Message("user", "x"),), chat_template="{{ messages[-1].content }}"))
    with pytest.raises(InputError, match="messages"):
        engine.submit(Request((1,), prompt=(1, 2)))
    with pytest.raises(UsageError, match="weights"):
        engine.load_weights({}, 1)
    engine.release()


def test_kept_replies_are_not_asked_for_again(tmp_path):
    file = str(tmp_path / "replies.sqlite")
    with server(answer("4", "two and two"), answer("5"), then=500) as (url, received):
        first, _ = asked(url, replies=file)
        again, engine = asked(url, replies=file)
        assert again == first
        assert len(received) == 2
        assert engine.usage.requests == 0
        with pytest.raises(RunFailed, match="status 500"):  # another seed is another request
            asked(url, Request((13,), ASK.sampling, ASK.messages), replies=file, tries=1)
    assert {(reply.thought, reply.answer) for reply in first} == {("two and two", "4"), (None, "5")}


def test_what_was_answered_when_a_request_was_refused_is_handed_over_and_nothing_more_is_asked():
    request = Request(tuple(range(20)), ASK.sampling, ASK.messages)
    with server(0.4, 0.4, 0.4, 400, then=0.4) as (url, received), opened(url=url, concurrency=4) as engine:
        engine.submit(request)
        with pytest.raises(RunFailed, match="status 400"):
            heard(engine, events := [])
        assert len(events) == 3
        time.sleep(0.3)
        assert len(received) == 4


def test_a_full_disk_under_kept_replies_is_said_and_the_reply_is_not_lost(tmp_path):
    file = str(tmp_path / "replies.sqlite")
    with server(then=answer("4" * 20_000)) as (url, _), opened(url=url, replies=file, concurrency=1) as engine:
        assert engine.replies
        engine.replies._base.execute("PRAGMA max_page_count = 3")
        engine.submit(ONE)
        with pytest.raises(DiskFull, match=r"replies\.sqlite"):
            heard(engine, events := [])
        assert [event.completion.answer for event in events] == ["4" * 20_000]


def test_a_file_that_cannot_keep_replies_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="this file cannot keep replies"):
        HttpEngine(HttpConfig(url="http://127.0.0.1:9", model="m", replies=str(tmp_path / "nowhere" / "r.sqlite")))
