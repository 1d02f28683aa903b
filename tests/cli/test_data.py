"""thinkery data: a file made from a source, looked into, and checked."""

from __future__ import annotations

import json
from pathlib import Path

from thinkery.pipeline.build import build
from thinkery.pipeline.step import step
from thinkery.stages.collect import Collect, collect
from thinkery.tasks.sources import Source


def test_made_tasks_are_read_back_as_the_same_tasks(thinkery, tmp_path: Path) -> None:
    file = tmp_path / "world.jsonl"
    code, out, _ = thinkery("data", "make", "world", "limit=5", "--out", file, "--seed", 3, "--json")
    assert code == 0
    assert json.loads(out)["tasks"] == 5
    code, out, _ = thinkery("data", "inspect", file, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["rows"], found["gradable"], found["dropped"]) == (5, 5, {})
    assert sum(found["kinds"].values()) == 5


def test_inspect_says_how_foreign_rows_are_read_and_what_cannot_be_graded(thinkery, tmp_path: Path) -> None:
    rows = [
        {"problem": "What is 2 + 2?", "ground_truth": "4"},
        {"problem": "What is 3 + 3?", "ground_truth": "???"},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({**row, "kind": "math"}) + "\n" for row in rows))
    code, out, _ = thinkery("data", "inspect", file, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["fields"]["question"] == "problem"
    assert found["fields"]["answer"] == "ground_truth"
    assert (found["rows"], found["gradable"]) == (2, 1)
    assert found["dropped"] == {"gold cannot be read as mathematics": 1}


def test_a_setting_of_a_source_that_does_not_exist_is_refused(thinkery, tmp_path: Path) -> None:
    code, _, err = thinkery("data", "make", "world", "limt=5", "--out", tmp_path / "x.jsonl")
    assert code == 2
    assert "did you mean 'limit'" in err


def test_an_evaluation_split_needs_the_word_exam(thinkery, tmp_path: Path) -> None:
    words = ("data", "make", "world", "limit=5", "split=held-out", "--out", tmp_path / "x.jsonl")
    assert thinkery(*words)[0] == 4
    assert thinkery(*words, "--exam")[0] == 0


def test_verify_names_the_broken_line(thinkery, tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text('{"a": 1}\n{"a": \n')
    code, _, err = thinkery("data", "verify", file)
    assert code == 4
    assert f"{file}:2" in err


def test_the_dataset_of_a_run_is_inspected_and_a_run_is_told_where_it_is(thinkery, tmp_path: Path) -> None:
    source = Source(source="world", kind="chain", limit=5)
    build({"problems": step("problems", collect, Collect(sources=(source,)))}, tmp_path / "run", seed=0)
    (folder,) = (tmp_path / "run" / "steps").iterdir()
    code, out, _ = thinkery("data", "inspect", folder, "--json")
    assert (code, json.loads(out)["funnel"]) == (0, {"loaded": 5, "kept": 5})
    code, _, err = thinkery("data", "inspect", tmp_path / "run")
    assert code == 4
    assert "not a dataset" in err
    assert "the folder of a step" in err
