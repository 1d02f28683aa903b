"""`thinkery eval` as it is used: kept, killed, continued, judged again, gated, on models and on endpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

QUESTIONS = [{"question": f"{i} + {i}?", "answer": str(2 * i)} for i in range(30)]


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """Thirty sums with their answers."""
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def add(messages, seed):
    """The sum, right for two seeds of three."""
    number = int(messages[-1]["content"].split()[0])
    return f"\\boxed{{{2 * number + (seed % 3 == 0)}}}"


def slowly(messages, seed):
    time.sleep(0.05)
    return add(messages, seed)


def rows(folder: Path, name: str = "attempts.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def metrics(folder: Path, name: str = "results.json") -> dict[str, dict]:
    return json.loads((folder / name).read_text())["metrics"]


def killed_after(words: tuple[object, ...], folder: Path, enough: int) -> None:
    """Start the command in a process of its own, and kill it once so many attempts are kept."""
    command = [sys.executable, "-m", "thinkery.cli", *map(str, words)]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        kept = folder / "attempts.jsonl"
        if kept.exists() and kept.read_bytes().count(b"\n") >= enough:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.005)
    _, complaints = process.communicate()
    assert process.returncode == -signal.SIGKILL, complaints


def test_a_killed_evaluation_of_an_endpoint_asks_only_what_is_missing_and_ends_alike(thinkery, serve, sums, tmp_path):
    endpoint = serve(add)
    words = ("eval", *endpoint.options(), "--concurrency", 4, "--source", sums, "-k", 3)
    assert thinkery(*words, "--out", tmp_path / "whole")[0] == 0
    endpoint.answer = slowly
    endpoint.received.clear()
    killed_after((*words, "--out", tmp_path / "killed"), tmp_path / "killed" / "sums", 30)
    kept = rows(tmp_path / "killed" / "sums")
    done = {task for task, attempts in Counter(row["task"] for row in kept).items() if attempts == 3}
    assert 10 <= len(done) < 30
    endpoint.received.clear()
    assert thinkery(*words, "--out", tmp_path / "killed")[0] == 0
    again = Counter(endpoint.questions)
    assert set(again.values()) == {3}
    assert len(again) == 30 - len(done)
    assert not {row["prompt"] for row in kept if row["task"] in done} & again.keys()
    assert rows(tmp_path / "killed" / "sums")[: 3 * len(done)] == kept[: 3 * len(done)]
    assert metrics(tmp_path / "killed" / "sums") == metrics(tmp_path / "whole" / "sums")
    endpoint.received.clear()
    assert thinkery(*words, "--out", tmp_path / "killed")[0] == 0
    assert endpoint.received == []


def test_a_killed_evaluation_of_a_model_ends_with_the_numbers_of_an_uninterrupted_one(thinkery, tmp_path):
    words = ("eval", "tiny", "--source", "world", "--template", "world-zero", "--limit", 48, "-k", 2)
    assert thinkery(*words, "--max-tokens", 64, "--out", tmp_path / "whole")[0] == 0
    killed_after((*words, "--max-tokens", 64, "--out", tmp_path / "killed"), tmp_path / "killed" / "world", 6)
    kept = rows(tmp_path / "killed" / "world")
    assert len(kept) < 96
    assert thinkery(*words, "--max-tokens", 64, "--out", tmp_path / "killed")[0] == 0
    made, wanted = (
        {(r["task"], r["sample"]): r for r in rows(tmp_path / name / "world")} for name in ("killed", "whole")
    )
    assert len(rows(tmp_path / "killed" / "world")) == 96
    assert made == wanted
    assert metrics(tmp_path / "killed" / "world") == metrics(tmp_path / "whole" / "world")


def test_a_group_that_a_kill_tore_is_asked_again(thinkery, serve, sums, tmp_path):
    endpoint = serve(add)
    words = ("eval", *endpoint.options(), "--source", sums, "-k", 3, "--out", tmp_path)
    thinkery(*words)
    path = tmp_path / "sums" / "attempts.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:32]) + lines[32][:40])  # ten groups, two attempts, and a part of the third
    endpoint.received.clear()
    assert thinkery(*words)[0] == 0
    assert len(endpoint.received) == 60
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_other_settings_on_the_same_folder_are_refused_and_named(thinkery, serve, sums, tmp_path):
    endpoint = serve(add)
    words = ("eval", *endpoint.options(), "--source", sums, "--out", tmp_path)
    assert thinkery(*words, "-k", 2, "--limit", 3)[0] == 0
    endpoint.received.clear()
    for change in (("-k", 3, "--limit", 3), ("-k", 2, "--limit", 4), ("-k", 2, "--limit", 3, "--temperature", 1)):
        code, _, err = thinkery(*words, *change)
        assert code == 2
        assert "begun with other settings" in err
    assert "asked.sampling.temperature 0.6 there, 1.0 now" in err
    sums.write_text(sums.read_text().replace("?", " =?"))
    assert "asked.questions" in thinkery(*words, "-k", 2, "--limit", 3)[2]
    assert endpoint.received == []


def test_where_nothing_is_said_other_settings_have_another_folder(thinkery, serve, sums, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("eval", *serve(add).options(), "--source", sums, "--limit", 3)
    for k in (1, 2, 1):
        assert thinkery(*words, "-k", k)[0] == 0
    assert len(list((tmp_path / "evals" / "m").glob("sums-????????"))) == 2


def test_kept_answers_are_judged_again_by_the_rewards_of_today_and_without_a_model(thinkery, serve, sums, tmp_path):
    reward = tmp_path / "my.py"
    reward.write_text("def score(task, completion):\n    return 0.5\n")
    endpoint = serve(add)
    thinkery(
        "eval", *endpoint.options(), "--source", sums, "-k", 2, "--reward", f"{reward}:score", "--out", tmp_path / "out"
    )
    before = rows(tmp_path / "out" / "sums")
    endpoint.received.clear()
    reward.write_text("def score(task, completion):\n    return len(completion.text) / 100\n")
    code, out, _ = thinkery("eval", "--rescore", tmp_path / "out", "--json")
    (found,) = json.loads(out)["results"].values()
    folder = tmp_path / "out" / "sums"
    assert code == 0
    assert found["own"]["value"] == pytest.approx(sum(len(row["text"]) for row in before) / 100 / 60)
    assert found["pass@1"] == metrics(folder)["pass@1"]
    assert metrics(folder)["own"]["value"] == 0.5
    assert found["own"] == metrics(folder, "rescored.json")["own"]
    assert rows(folder) == before
    assert endpoint.received == []


def test_a_missed_gate_ends_with_3_and_says_what_was_missed(thinkery, serve, sums, tmp_path):
    words = ("eval", *serve(lambda messages, seed: "\\boxed{2}").options(), "--source", sums, "-k", 1)
    words = (*words, "--out", tmp_path)
    code, out, err = thinkery(*words, "--min", "pass@1=0.5", "--min", "truncated=0", "--min", "sums=1")
    assert code == 2  # a benchmark is no metric
    code, out, err = thinkery(*words, "--min", "pass@1=0.5", "--min", "truncated=0")
    assert code == 3
    assert "pass@1" in out
    assert "1 of 2 gates are missed" in err
    assert "pass@1 is 0.03333, not 0.5" in err
    assert thinkery(*words, "--min", "pass@1=0.03", "--min", f"{sums}:pass@1=0.03")[0] == 0
    assert thinkery("eval", "--rescore", tmp_path, "--min", "pass@1=0.5")[0] == 3


def test_an_unknown_metric_is_an_error_before_anybody_is_asked(thinkery, serve, sums, tmp_path):
    endpoint = serve(add)
    words = ("eval", *endpoint.options(), "--source", sums, "-k", 2, "--out", tmp_path)
    code, _, err = thinkery(*words, "--min", "pas@1=0.5")
    assert code == 2
    assert "did you mean 'pass@1'?" in err
    assert thinkery(*words, "--min", "pass@1")[0] == 2
    assert thinkery(*words, "--min", "pass@8=0.1")[0] == 2
    assert endpoint.received == []


def test_the_endpoint_gets_its_key_from_the_environment_and_the_paper_s_sampling(
    thinkery, serve, sums, tmp_path, monkeypatch
):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    endpoint = serve(add)
    code, _, err = thinkery(
        *("eval", *endpoint.options(), "--key-env", "SOME_KEY", "--source", sums, "-k", 1, "--limit", 2),
        *("--out", tmp_path),
    )
    assert code == 0
    assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer s3cret"}
    body = endpoint.received[0]
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("m", 0.6, 0.95, 512)
    assert "2 requests (0 again), 20 + 10 tokens" in err
    assert "s3cret" not in (tmp_path / "sums" / "asked.json").read_text()
    assert "length" not in metrics(tmp_path / "sums")  # it does not say which tokens
    assert metrics(tmp_path / "sums")["characters"]["value"] == pytest.approx(9, abs=1)


def test_a_cost_cap_stops_the_evaluation_and_what_was_paid_for_is_kept(thinkery, serve, sums, tmp_path):
    endpoint = serve(add)
    words = ("eval", *endpoint.options(), "--source", sums, "-k", 1, "--max-tokens", 5, "--out", tmp_path)
    words = (*words, "--concurrency", 1, "--price-in", 1e6, "--price-out", 1e6)  # 15 an answer, at most 91 to 93
    code, _, err = thinkery(*words, "--max-cost", 200)
    assert code == 1
    assert "cost cap is reached" in err
    assert len(endpoint.received) == len(rows(tmp_path / "sums")) == 8, "a ninth could cost 8 * 15 + 91"
    assert thinkery(*words, "--max-cost", 1000)[0] == 0
    assert len(endpoint.received) == len(rows(tmp_path / "sums")) == 30


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--url", "http://127.0.0.1:9"), "the name of a model"),
        (("tiny", "--url", "http://127.0.0.1:9", "--model-name", "m"), "its own model"),
        (("--url", "http://127.0.0.1:9", "--model-name", "m", "--max-cost", "1"), "needs prices"),
        ((), "nobody to ask"),
    ],
)
def test_half_an_endpoint_is_refused(thinkery, words, problem):
    code, _, err = thinkery("eval", *words, "--source", "world")
    assert code == 2
    assert problem in err


def test_what_is_no_evaluation_cannot_be_judged_again(thinkery, tmp_path):
    assert "no evaluation here" in thinkery("eval", "--rescore", tmp_path)[2]
    assert "asks nobody" in thinkery("eval", "tiny", "--rescore", tmp_path)[2]


def test_kept_attempts_are_compared(thinkery, serve, sums, tmp_path):
    for name, answer in (("good", lambda messages, seed: add(messages, 1)), ("bad", lambda messages, seed: "?")):
        thinkery("eval", *serve(answer).options(), "--source", sums, "-k", 1, "--out", tmp_path / name)
    code, out, _ = thinkery("compare", tmp_path / "good" / "sums", tmp_path / "bad" / "sums")
    assert code == 0
    assert "-1.000" in out
