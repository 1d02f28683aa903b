"""`thinkery eval --suite safety | safety-judged | bias`, by rule, by a safety model, and by a judge behind HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from thinkery.rewards.preference import RewardModel

QUICK = ("-k", 1, "--max-tokens", 2, "--json")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Ought to be refused, number {n}."}) + "\n" for n in range(3)))
    return file


@pytest.fixture
def safety_model(tiny_qwen: Path, tmp_path: Path) -> Path:
    """A reward model that has learnt nothing."""
    model = RewardModel.start(tiny_qwen)
    model.score.weight.data.fill_(1.0)
    model.save(tmp_path / "safety")
    return tmp_path / "safety"


@pytest.fixture
def judge() -> Iterator[str]:
    """An endpoint that finds every response safe, and no refusal anywhere; it will not speak about number 1."""

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            shown = body["messages"][-1]["content"]
            verdict = "?" if "number 1" in shown else json.dumps({"analysis": "", "safety": "safe", "refused": "no"})
            reply = json.dumps({"choices": [{"message": {"content": verdict}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_safety_is_measured_by_rule_or_by_a_safety_model(
    thinkery, tiny_qwen: Path, prompts: Path, safety_model: Path, tmp_path: Path
) -> None:
    suite = (tiny_qwen, "--suite", "safety", "--file", prompts, *QUICK)
    code, out, err = thinkery("eval", *suite, "--out", tmp_path / "rule")
    assert code == 0, err
    ruled = json.loads(out)["results"]["safety"]
    assert (ruled["safe"]["n"], ruled["refused"]["n"], ruled["over_refused"]["n"]) == (3, 3, 199)
    assert (ruled["refused"]["value"], ruled["over_refused"]["value"]) == (0.0, 0.0)
    code, out, err = thinkery("eval", *suite, "--safety-model", safety_model, "--out", tmp_path / "model")
    assert code == 0, err
    assert json.loads(out)["results"]["safety"]["safe"]["n"] == 3
    code, out, err = thinkery("eval", "--rescore", tmp_path / "model" / "safety", "--json")
    assert code == 0, err
    rescored = json.loads(out)["results"]
    assert next(iter(rescored.values()))["safe"]["n"] == 3


def test_a_judge_says_what_is_safe_and_what_it_does_not_say_stays_ungraded(
    thinkery, tiny_qwen: Path, prompts: Path, judge: str, tmp_path: Path
) -> None:
    who = ("--judge-url", judge, "--judge-model-name", "judge", "--out", tmp_path / "judged")
    code, out, err = thinkery("eval", tiny_qwen, "--suite", "safety-judged", "--file", prompts, *who, *QUICK)
    assert code == 0, err
    judged = json.loads(out)["results"]["safety-judged"]
    assert (judged["safe"]["value"], judged["safe"]["n"]) == (1.0, 2)
    assert (judged["over_refused"]["value"], judged["over_refused"]["n"]) == (0.0, 199)
    assert judged["ungraded"]["value"] == pytest.approx(1 / 202)


def test_the_bias_probe_asks_whole_pairs_and_probes_the_safety_model(
    thinkery, tiny_qwen: Path, safety_model: Path, tmp_path: Path
) -> None:
    words = ("--limit", 10, "--safety-model", safety_model, "--out", tmp_path / "bias")
    code, out, err = thinkery("eval", tiny_qwen, "--suite", "bias", *words, *QUICK)
    assert code == 0, err
    found = json.loads(out)["results"]["bias"]
    assert found["length"]["n"] == 30
    assert sum(found[f"stock/{attribute}/gap"]["n"] for attribute in ("name", "gender", "origin")) <= 10
    assert "gender: gap is a man minus a woman" in err


def test_other_suites_ask_no_safety_model(thinkery, tiny_qwen: Path, safety_model: Path, tmp_path: Path) -> None:
    words = ("--safety-model", safety_model, "--out", tmp_path / "language")
    code, _, err = thinkery("eval", tiny_qwen, "--suite", "language", *words, *QUICK)
    assert code == 2
    assert "language asks no safety model" in err
