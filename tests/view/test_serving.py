"""The page about serving, read from the ledger that a server writes."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from thinkery.pipeline.prices import Prices
from thinkery.serve.call import Usage
from thinkery.serve.ledger import Bill, Ledger, Outcome
from thinkery.view.app import create_app
from thinkery.view.library import Library
from thinkery.view.serving import read_requests, serving_page, summed

DAY = 86_400


@pytest.fixture
def ledger(tmp_path):
    """Three requests of two keys on two days."""
    found = Ledger(tmp_path / "serve.db")
    key, _ = found.create_key("<b>laptop</b>")
    asked = (
        (0, key.id, 100, 64, 50, 0.2, 2.0),
        (60, "local", 100, 0, 30, 0.4, 1.0),
        (DAY, key.id, 200, 128, 10, None, None),
    )
    for number, (at, who, prompt, hit, completion, first_s, latency_s) in enumerate(asked):
        bill = Bill(
            f"r{number}",
            who,
            "demo",
            (),
            Prices(hit=140, miss=550, completion=2190),
            1_800_000_000 - 1_800_000_000 % DAY + at,
        )
        used = Usage(prompt=prompt, hit=hit, completion=completion, reasoning=completion // 2)
        found.close_bill(bill, Outcome(used, "stop", latency_s is None, first_s, latency_s))
    found.close()
    return found.path


def test_requests_are_summed_by_day_key_and_model(ledger):
    shown = serving_page(ledger)
    total = shown["total"]
    assert (total.requests, total.prompt, total.hit, total.completion, total.cancelled) == (3, 400, 192, 90, 1)
    assert (total.hit_rate, total.first_s, total.pace) == (0.48, pytest.approx(0.3), pytest.approx(27.5))
    assert total.cost == pytest.approx((192 * 140 + 208 * 550 + 90 * 2190) / 1e9)
    assert [(one.name, one.requests) for one in shown["tables"]["key"]] == [("<b>laptop</b>", 2), ("local", 1)]
    assert [one.requests for one in shown["tables"]["day"]] == [2, 1]
    requests = shown["charts"]["panels"][0]["series"][0]
    assert (requests["y"], requests["x"][1] - requests["x"][0]) == ([2, 1], DAY)


def test_the_page_shows_them_and_changes_nothing(ledger, runs):
    before = ledger.read_bytes()
    client = TestClient(create_app(Library([runs]), ("testserver",), ledger))
    page = client.get("/demo/serving/").text
    assert "48.0 %" in page
    assert "&lt;b&gt;laptop&lt;/b&gt;" in page
    assert ledger.read_bytes() == before


def test_keys_of_the_same_name_are_told_apart(ledger, runs):
    again = Ledger(ledger)
    key, _ = again.create_key("<b>laptop</b>")
    bill = Bill("r3", key.id, "demo", (), Prices(), 1_800_000_000)
    again.close_bill(bill, Outcome(Usage(prompt=10), "stop", False, 0.1, 0.2))
    again.close()
    sums = serving_page(ledger)["tables"]["key"]
    assert sorted((one.name, one.requests) for one in sums[:2]) == [("<b>laptop</b>", 1), ("<b>laptop</b>", 2)]
    assert (sums[2].name, sums[2].id) == ("local", "")
    assert {one.id: one.requests for one in sums}[key.id] == 1
    page = TestClient(create_app(Library([runs]), ("testserver",), ledger)).get("/demo/serving/").text
    assert all(f"<small>{one.id}</small>" in page for one in sums[:2])


def test_without_a_ledger_the_page_says_how_to_get_one(runs, tmp_path):
    client = TestClient(create_app(Library([runs]), ("testserver",), tmp_path / "none.db"))
    assert "Nothing was served yet" in client.get("/demo/serving/").text
    assert read_requests(tmp_path / "none.db") == []
    assert summed("none", []).hit_rate is None
