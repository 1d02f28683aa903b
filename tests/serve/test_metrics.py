"""The metrics of a server, by the names of vLLM's, after requests of which everything is known."""

from __future__ import annotations

import httpx
from tests.serve.conftest import chat, serving
from tests.serve.processes import until

MISS, HIT, SAID = 550, 140, 2190


def numbers(client: httpx.Client) -> dict[str, float]:
    """Every metric by its name and labels."""
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    pairs = [line.removeprefix("thinkery:").rsplit(" ", 1) for line in lines]
    return {name: float(value) for name, value in pairs}


def test_metrics_are_what_was_asked_and_answered(thinker, tmp_path):
    text = "two ball cup what two is red why sum " * 12
    with serving(thinker, "kv_memory=0.003", folder=tmp_path) as server, server.client() as client:
        stopped = chat(client, "what is red").json()["usage"]
        cut = [chat(client, text, max_tokens=9, n=n).json()["usage"] for n in (1, 2)]
        found = numbers(client)
    used = [stopped, *cut]
    prompt, hit, said = (
        sum(usage[name] for usage in used) for name in ("prompt_tokens", "prompt_cache_hit_tokens", "completion_tokens")
    )
    assert (stopped["completion_tokens"], said) == (44, 44 + 9 + 2 * 9)
    assert hit == 64 * ((cut[0]["prompt_tokens"] - 1) // 64) > 0
    expected = {
        "num_requests_running": 0,
        "num_requests_waiting": 0,
        "replicas_ready": 1,
        "prefix_cache_queries_total": prompt,
        "prefix_cache_hits_total": hit,
        "prompt_tokens_total": prompt,
        "generation_tokens_total": said,
        "reasoning_tokens_total": 32 + 9 + 2 * 9,
        "unterminated_thoughts_total": 3,
        "requests_cancelled_total": 0,
        "requests_failed_total": 0,
        'request_success_total{finished_reason="stop"}': 1,
        'request_success_total{finished_reason="length"}': 3,
        "time_to_first_token_seconds_count": 3,
        "e2e_request_latency_seconds_count": 3,
        "request_queue_time_seconds_count": 4,
        "inter_token_latency_seconds_count": 43 + 8 + 2 * 8,
        'inter_token_latency_seconds_bucket{le="+Inf"}': 43 + 8 + 2 * 8,
    }
    assert {name: found[name] for name in expected} == expected
    assert round(found["cost_usd_total"] * 1e9) == HIT * hit + MISS * (prompt - hit) + SAID * said
    assert 0 < found["kv_cache_usage_perc"] < 1
    queued, first, between, whole = (
        found[f"{name}_seconds_sum"]
        for name in ("request_queue_time", "time_to_first_token", "inter_token_latency", "e2e_request_latency")
    )
    assert 0 <= queued < first < whole
    assert 0 < between < 2 * whole  # of two answers at once, each has its own time


def test_metrics_tell_who_is_answered_who_waits_and_who_went_away(thinker, tmp_path):
    body = {"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    endless = {**body, "logit_bias": {"0": -100}, "max_tokens": 4000}
    with serving(thinker, "max_batch=1", folder=tmp_path) as server, server.client() as client:
        with client.stream("POST", "/chat/completions", json=endless):
            until(lambda: numbers(client)["num_requests_running"] == 1)
            with client.stream("POST", "/chat/completions", json=endless):
                until(lambda: numbers(client)["num_requests_waiting"] == 1)
                assert numbers(client)["num_requests_running"] == 1
        until(lambda: numbers(client)["requests_cancelled_total"] == 2)
        assert numbers(client)["num_requests_running"] == numbers(client)["num_requests_waiting"] == 0
