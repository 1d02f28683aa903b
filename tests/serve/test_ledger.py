"""Keys and bills: exact sums, nothing lost by a kill, nothing charged twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest
from tests.serve.conftest import chat, endless, rows, serving

from thinkery.cli.main import main
from thinkery.errors import Busy, InputError
from thinkery.pipeline.prices import Prices
from thinkery.serve.call import Usage
from thinkery.serve.jobs import News
from thinkery.serve.ledger import USD, Bill, Item, Ledger, Outcome, cost_of
from thinkery.serve.meter import Meter

USED = Usage(prompt=200, hit=128, completion=50, reasoning=30)
COST = 128 * 140 + 72 * 550 + 50 * 2190


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "serve.db")
    yield ledger
    ledger.close()


def bill(request: str, key: str, *items: Item, at: float = 1.7e9) -> Bill:
    return Bill(request, key, "m", items or (Item(f"{request}-job", 0, 200),), Prices(), at)


def test_the_published_price_is_exact_in_integers():
    assert cost_of(USED, Prices()) == COST == 167_020


def test_the_sum_agrees_with_genai_prices():
    genai = pytest.importorskip("genai_prices")
    price = genai.calc_price(
        genai.Usage(input_tokens=200, cache_read_tokens=128, output_tokens=50),
        model_ref="deepseek-reasoner",
        provider_id="deepseek",
        genai_request_timestamp=datetime(2025, 3, 1, 12, tzinfo=UTC),
    )
    assert price.total_price * 10**9 == Decimal(COST)


def test_a_secret_opens_its_key_until_it_is_revoked(ledger, tmp_path):
    key, secret = ledger.create_key("laptop", granted=5 * USD)
    assert ledger.key_of(secret) == key
    assert ledger.key_of(secret + "x") is None
    assert secret.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert (tmp_path / "serve.db").stat().st_mode & 0o077 == 0
    ledger.revoke(key.id)
    assert ledger.key_of(secret) is None
    with pytest.raises(InputError):
        ledger.revoke("key_nobody")


def test_a_request_is_charged_once_to_its_key(ledger):
    key, _ = ledger.create_key("laptop", granted=5 * USD)
    one = bill("r1", key.id)
    for _ in range(2):
        ledger.open_bill(one)
        assert ledger.close_bill(one, Outcome(USED, "stop", False, 0.1, 0.5)) == COST
    assert ledger.key(key.id).balance == 5 * USD - COST
    assert ledger.usage(["key", "model", "day"]) == [
        {"key": key.id, "name": "laptop", "model": "m", "day": "2023-11-14"}
        | {"requests": 1, "prompt": 200, "hit": 128, "miss": 72}
        | {"completion": 50, "reasoning": 30, "cancelled": 0, "cost": COST}
    ]


def test_keys_of_the_same_name_have_sums_of_their_own(ledger, capsys):
    first, second = (ledger.create_key("laptop")[0].id for _ in range(2))
    for number, key in enumerate((first, second, second, "local")):
        ledger.close_bill(bill(f"r{number}", key), Outcome(USED, "stop", False, 0.1, 0.5))
    sums = [(row["key"], row["name"], row["requests"]) for row in ledger.usage(["key"])]
    assert sums == [*sorted([(first, "laptop", 1), (second, "laptop", 2)]), ("local", "local", 1)]
    assert main(["usage", "--ledger", str(ledger.path)]) == 0
    shown = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert [first, "laptop", "1"] in shown
    assert [second, "laptop", "2"] in shown


def test_what_a_killed_server_left_is_charged_by_its_meter_once(ledger, tmp_path):
    key, _ = ledger.create_key("laptop", granted=USD)
    meter = Meter(tmp_path / "meter", 8)
    slots = [meter.take(job) for job in ("a", "b", "never began")]
    ledger.open_bill(bill("r1", key.id, Item("a", slots[0], 200), Item("b", slots[1], 0)))
    ledger.open_bill(bill("r2", key.id, Item("never began", slots[2], 100)))
    meter.note([News("a", tokens=30, reasoning=20, hit=128), News("b", tokens=20, reasoning=10, hit=192)])
    with pytest.raises(Busy):
        Meter(tmp_path / "meter", 8)
    meter.close()  # what a kill leaves is the same
    for expected in (2, 0):
        again = Meter(tmp_path / "meter", 8)
        assert ledger.settle_left(again.left) == expected
        again.close()
    assert ledger.key(key.id).spent == COST
    assert ledger.usage([])[0]["completion"] == 50


def test_the_command_line_makes_lists_credits_and_revokes(tmp_path, capsys):
    where = ["--ledger", str(tmp_path / "serve.db")]
    assert main(["keys", "create", "laptop", "--credit", "0.25", *where]) == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("sk-")
    main(["keys", "list", "--json", *where])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["balance"], row["ends"]) == ("laptop", "0.25 USD", f"…{secret[-4:]}")
    assert main(["keys", "credit", row["id"], "1.000000001", *where]) == 0
    assert "1.250000001 USD" in capsys.readouterr().err
    assert main(["keys", "credit", row["id"], "0.0000000001", *where]) == 2
    assert main(["keys", "revoke", row["id"], *where]) == 0
    capsys.readouterr()
    assert main(["usage", "--by", "key,day,model", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_server_with_keys_charges_them_and_survives_a_kill(talker, tmp_path):
    book = tmp_path / "runs" / "serve.db"
    ledger = Ledger(book)
    key, secret = ledger.create_key("laptop", granted=USD // 100)
    _, empty = ledger.create_key("poor", granted=0)
    auth = {"authorization": f"Bearer {secret}"}
    with serving(talker, folder=tmp_path) as server:
        with server.client() as client:
            assert chat(client, "hi").status_code == 401
            assert client.get("/nothing").status_code == 401
            client.headers["authorization"] = "Bearer sk-wrong-fcc2"
            answer = chat(client, "hi")
            assert answer.json()["error"]["message"] == "Authentication Fails, Your api key: ****fcc2 is invalid"
            assert answer.json()["error"]["type"] == "authentication_error"
            client.headers["authorization"] = f"Bearer {empty}"
            answer = chat(client, "hi")
            assert (answer.status_code, answer.json()["error"]["message"]) == (402, "Insufficient Balance")
        with server.client(**auth) as client:
            assert client.get("/user/balance").json() == {
                "is_available": True,
                "balance_infos": [
                    {"currency": "USD", "total_balance": "0.01", "granted_balance": "0.01", "topped_up_balance": "0.00"}
                ],
            }
            used = chat(client, "hi").json()["usage"]
            with client.stream("POST", "/chat/completions", json=endless()) as answer:
                heard = read_some(answer, 40)
                os.kill(server.process.pid, signal.SIGKILL)
    with serving(talker, folder=tmp_path):
        done, lost = rows(book)
    assert (done["prompt"], done["completion"]) == (used["prompt_tokens"], used["completion_tokens"])
    assert lost["finish"] == "lost"
    assert lost["completion"] >= heard
    assert ledger.key(key.id).spent == sum(row["cost"] for row in (done, lost))
    assert lost["cost"] == 550 * lost["prompt"] + 2190 * lost["completion"]
    ledger.close()


def read_some(answer: httpx.Response, count: int) -> int:
    """Read so many chunks of text from a stream."""
    lines = (line for line in answer.iter_lines() if line.startswith("data: "))
    for _ in range(count):
        next(lines)
    return count - 1


def test_a_client_that_hangs_up_is_charged_for_what_was_generated(talker, tmp_path):
    with serving(talker, folder=tmp_path) as server, server.client() as client:
        with client.stream("POST", "/chat/completions", json=endless()) as answer:
            heard = read_some(answer, 20)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/chat/completions", json={**endless(), "stream": False}, timeout=0.3)
        patience = time.monotonic() + 20
        while len(found := rows(tmp_path / "runs" / "serve.db")) < 2 and time.monotonic() < patience:
            time.sleep(0.05)
        assert [(row["finish"], row["cancelled"]) for row in found] == [("cancelled", 1)] * 2
        assert heard <= found[0]["completion"] < 60_000
        metrics = client.get("/metrics").text
        assert "thinkery:num_requests_running 0.0" in metrics
        assert "thinkery:requests_cancelled_total 2.0" in metrics


def test_of_a_hundred_clients_that_hang_up_none_is_forgotten(talker, tmp_path):
    with serving(talker, folder=tmp_path) as server, server.client() as client:
        for number in range(100):
            with client.stream("POST", "/chat/completions", json=endless()) as answer:
                read_some(answer, 1 + number % 7)
        patience = time.monotonic() + 20
        while len(found := rows(tmp_path / "runs" / "serve.db")) < 100 and time.monotonic() < patience:
            time.sleep(0.05)
    assert [row["finish"] for row in found] == ["cancelled"] * 100


def test_an_open_address_needs_keys(thinker, tmp_path):
    command = [sys.executable, "-m", "thinkery.cli", "serve", str(thinker), "--host", "0.0.0.0", "port=0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "a server that others can reach needs keys" in done.stderr
