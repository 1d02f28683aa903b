"""The prefix cache: what is called a hit was not computed, and nobody learns of another's prompts."""

from __future__ import annotations

import time
from statistics import median

from tests.serve.conftest import chat, serving

from thinkery.serve.ledger import Ledger

WORDS = "ball cup what two is red why sum"


def hits(answer) -> tuple[int, int]:
    """Prompt tokens, and those of them that were reused, in the three ways they are told."""
    usage = answer.json()["usage"]
    hit = usage["prompt_cache_hit_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == hit
    assert usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"] - hit
    return usage["prompt_tokens"], hit


def test_hits_are_whole_units_of_what_was_computed_before(client):
    text = f"one {WORDS} " * 12
    prompt, hit = hits(chat(client, text, max_tokens=1))
    assert (prompt > 200, hit) == (True, 0)
    assert hits(chat(client, text, max_tokens=1)) == (prompt, 64 * ((prompt - 1) // 64))
    longer, hit = hits(chat(client, text, "yes", "and then", max_tokens=1))
    assert longer > prompt
    assert hit in (64 * (prompt // 64), 64 * (prompt // 64) - 64)  # the end of the prompt reads otherwise now
    assert hits(chat(client, "two" + text, max_tokens=1))[1] == 0


def test_short_prompts_are_never_cached(client):
    for _ in range(2):
        prompt, hit = hits(chat(client, "short", max_tokens=1))
        assert (prompt < 64, hit) == (True, 0)


def test_several_answers_count_their_prompt_once(client):
    text = f"two {WORDS} " * 12
    single = chat(client, text, max_tokens=1).json()["usage"]
    both = chat(client, text, max_tokens=1, n=2).json()["usage"]
    assert both["prompt_tokens"] == single["prompt_tokens"]
    assert both["completion_tokens"] == 2


def test_two_keys_never_share_a_hit_by_usage_or_by_time(thinker, tmp_path):
    ledger = Ledger(tmp_path / "runs" / "serve.db")
    secrets = [ledger.create_key(name)[1] for name in ("one", "other")]
    ledger.close()

    def asked(secret: str, text: str) -> tuple[int, float]:
        started = time.perf_counter()
        answer = chat(client, text, max_tokens=1)
        return hits(answer)[1], time.perf_counter() - started

    with serving(thinker, folder=tmp_path) as server, server.client() as client:
        first, again, others = [], [], []
        for number in range(5):
            text = f"{number} {WORDS} " * 170
            for times, secret in ((first, secrets[0]), (again, secrets[0]), (others, secrets[1])):
                client.headers["authorization"] = f"Bearer {secret}"
                times.append(asked(secret, text))
        assert {hit for hit, _ in first} == {hit for hit, _ in others} == {0}
        assert min(hit for hit, _ in again) > 2000
        fast, new, other = (median(seconds for _, seconds in times) for times in (again, first, others))
        assert fast < other
        assert other > 0.5 * new
