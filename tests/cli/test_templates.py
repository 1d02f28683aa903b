"""`thinkery eval --templates`: the same questions in other words, from the command line."""

from __future__ import annotations

import json

import pytest


def test_every_question_is_asked_under_every_template_and_the_spread_is_shown(thinkery, tmp_path):
    words = ("Hello. {question}", "{question} Thank you.")
    said = [word for text in words for word in ("--templates", text)]
    code, out, err = thinkery(
        "eval", "tiny", "--source", "world", "--limit", 6, "-k", 2, "--template", "world-zero", "--max-tokens", 16,
        "--out", tmp_path / "kept", "--json", *said,
    )  # fmt: skip
    assert code == 0, err
    metrics = json.loads(out)["results"]["world"]
    assert metrics["template_spread"]["n"] == metrics["pass@1"]["n"] == 6
    one, two = (metrics[f"pass@1/template={n}"]["value"] for n in (1, 2))
    assert metrics["template_worst"]["value"] == min(one, two)
    assert metrics["template_spread"]["value"] == pytest.approx(abs(one - two))
    assert "template 2: {question} Thank you." in err
    (file,) = (tmp_path / "kept").rglob("attempts.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(row["template"] for row in rows) == [1] * 12 + [2] * 12


def test_a_set_that_does_not_exist_is_an_error_with_the_names_that_do(thinkery):
    code, _, err = thinkery("eval", "tiny", "--source", "world", "--templates", "world-zero-exams")
    assert code == 2
    assert "world-zero-exam," in err
