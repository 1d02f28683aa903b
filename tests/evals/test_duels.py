"""Suites that another model judges, through the command line and a judge on loopback."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from thinkery.core import Completion
from thinkery.evals.duels import style_of
from thinkery.evals.frames import decision


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Public data of four questions each, in its places."""
    root = tmp_path / "data"
    frames = [{"id": i, "question": f"Question {i}?", "answer": f"known {i}"} for i in range(4)]
    prompts = [{"uid": f"u{i}", "prompt": f"Prompt {i}"} for i in range(4)]
    answers = [{"uid": f"u{i}", "messages": [{}, {"content": {"answer": "baseline"}}]} for i in range(4)]
    outputs = [{"instruction": f"Instruction {i}", "output": "baseline"} for i in range(4)]
    for name, rows in {
        "frames/frames.jsonl.gz": frames,
        "arena_hard/question_v0.1.jsonl.gz": prompts,
        "arena_hard/baseline_gpt-4-0314.jsonl.gz": answers,
        "alpaca_eval2/baseline_gpt4_1106_preview.json.gz": outputs,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        lines = json.dumps(rows) if ".json." in name else "".join(json.dumps(row) + "\n" for row in rows)
        (root / name).write_bytes(gzip.compress(lines.encode()))
    monkeypatch.setenv("THINKERY_DATA", str(root))
    return root


def shown(messages) -> dict[str, str]:
    """The parts of what a judge was shown, by heading."""
    parts = re.split(r"^# (.*)$", messages[-1]["content"], flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def evaluate(thinkery, suite, answerer, judge, out, *words):
    command = ("eval", *answerer.options(), "--suite", suite, *judge.options("judge-"), "--out", out, *words, "--json")
    code, text, err = thinkery(*command)
    assert code == 0, err
    return json.loads(text)["results"][suite], err


def test_frames_is_judged_true_or_false_and_what_is_neither_stays_ungraded(thinkery, serve, data, tmp_path):
    answerer = serve(lambda messages, seed: f"<think>known 0</think>It is known {messages[-1]['content'][9]}.")

    def decide(messages, seed):
        number = shown(messages)["Question"][9]
        assert shown(messages)["Known answer"] == f"known {number}"
        assert shown(messages)["Given answer"] == f"It is known {number}."  # without the thought
        return {"0": "Yes.\nDecision: TRUE", "1": "**Decision:** FALSE", "2": "decision: true", "3": "Perhaps."}[number]

    found, _ = evaluate(thinkery, "frames", answerer, serve(decide), tmp_path / "out", "-k", 2)
    assert found["pass@1"]["value"] == pytest.approx(2 / 3)
    assert found["pass@1"]["n"] == 3
    assert found["ungraded"]["value"] == 0.25


def test_a_judged_suite_keeps_what_was_generated_and_another_judge_may_judge_it(thinkery, serve, data, tmp_path):
    answerer, judge = serve(lambda messages, seed: "answer"), serve(lambda messages, seed: "Decision: TRUE")
    found, _ = evaluate(thinkery, "frames", answerer, judge, tmp_path / "out", "-k", 1)
    assert found["pass@1"]["value"] == 1.0
    folder = tmp_path / "out" / "frames"
    raw = [json.loads(line) for line in (folder / "unjudged.jsonl").read_text().splitlines()]
    assert [row["scores"] for row in raw] == [{}] * 4
    lines = (folder / "attempts.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "attempts.jsonl").write_bytes(b"".join(lines[:3]))
    judge.received.clear()
    answerer.received.clear()
    again, _ = evaluate(thinkery, "frames", answerer, judge, tmp_path / "out", "-k", 1)
    assert again == found
    assert (len(judge.received), len(answerer.received)) == (1, 0)
    strict = serve(lambda messages, seed: "Decision: FALSE")
    code, text, _ = thinkery("eval", "--rescore", folder, *strict.options("judge-"), "--json")
    assert code == 0
    assert json.loads(text)["results"]["frames"]["pass@1"]["value"] == 0.0
    assert len(answerer.received) == 0


def test_a_judged_suite_without_a_judge_is_refused_before_anybody_is_asked(thinkery, serve, data, tmp_path):
    answerer = serve(lambda messages, seed: "answer")
    code, _, err = thinkery("eval", *answerer.options(), "--suite", "frames", "--out", tmp_path / "out")
    assert code == 2
    assert "--judge MODEL" in err
    assert answerer.received == []


def test_alpaca_eval_shows_both_orders_and_a_judge_that_likes_what_it_reads_first_gives_a_draw(
    thinkery, serve, data, tmp_path
):
    answerer = serve(lambda messages, seed: "<think>hm</think>mine")
    found, err = evaluate(thinkery, "alpaca-eval", answerer, serve(lambda m, seed: "m"), tmp_path / "first")
    assert found["win_rate"]["value"] == 0.5

    def prefers_mine(messages, seed):
        outputs = shown(messages)
        assert {outputs["Output of m"], outputs["Output of M"]} == {"mine", "baseline"}
        return "m." if outputs["Output of m"] == "mine" else '"M"'

    judge = serve(prefers_mine)
    found, err = evaluate(thinkery, "alpaca-eval", answerer, judge, tmp_path / "mine", "--min", "win_rate=0.9")
    assert (found["win_rate"]["value"], found["win_rate"]["n"]) == (1.0, 4)
    assert len(judge.received) == 8
    assert "no length-controlled win rate" in err  # the tables are not among this data


def test_arena_hard_is_the_chance_against_the_baseline_and_much_better_counts_thrice(thinkery, serve, data, tmp_path):
    answerer = serve(lambda messages, seed: "mine")

    def compare(messages, seed):
        parts = shown(messages)
        mine = "A" if parts["Answer A"] == "mine" else "B"
        theirs = "B" if mine == "A" else "A"
        return {
            "Prompt 0": f"[[{mine}>>{theirs}]]",
            "Prompt 1": f"[[{theirs}>{mine}]]",
            "Prompt 2": "[[A=B]]",
            "Prompt 3": "I cannot say." if mine == "A" else f"[[{mine}>{theirs}]]",
        }[parts["Request"]]

    found, err = evaluate(thinkery, "arena-hard", answerer, serve(compare), tmp_path / "out")
    assert found["win_rate"]["value"] == pytest.approx((6 + 1 + 1) / (6 + 2 + 2 + 1), abs=1e-3)
    assert found["win_rate"]["low"] < found["win_rate"]["value"] < found["win_rate"]["high"]
    assert found["win_rate"]["n"] == 4
    assert found["style_controlled"]["value"] == pytest.approx(found["win_rate"]["value"], abs=0.1)  # all styles alike
    assert "against gpt-4-0314" in err


def test_the_style_of_an_answer_is_its_length_and_its_markdown():
    style = style_of("# A\n\n- x\n- **y**\n1. z\n", "plain text")
    assert {name: value for name, value in style.items() if name.endswith("_a")} == {
        "header_count_a": 1,
        "list_count_a": 3,
        "bold_count_a": 1,
    }
    assert style["sum_assistant_b_tokens"] == 10
    assert style["bold_count_b"] == 0


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Decision: TRUE", 1.0),
        ('{"Decision": "FALSE"}', 0.0),
        ("Decision: TRUE … Decision: FALSE", None),
        ("TRUE", None),
    ],
)
def test_a_decision_is_read_where_it_is_stated_once(reply, value):
    assert decision(Completion(reply, answer=reply)).value == value
