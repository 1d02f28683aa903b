"""The index of attempts: any question opens alone, and a lost or stale line changes nothing but the speed."""

from __future__ import annotations

import gzip
import json

import pytest

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.errors import InputError
from thinkery.pipeline.files import read_rows, zipped
from thinkery.pipeline.index import INDEX, Index
from thinkery.pipeline.run import Run

ONE, TWO = (
    Task("a/1", "How much is 1 + 1?", "math", "2", "en", "sums"),
    Task("b/2", "二加二？", "math", "4", "zh", "sums"),
)


def group(task: Task, *rewards: float | None, text: str = "so it is", finish: str = "stop") -> Group:
    """A group whose attempts earned `rewards`."""
    completion = Completion(text, tokens=(1, 2, 3), answer=text, finish=finish)
    rollouts = [
        Rollout(task, (9,), completion, {"accuracy": Score(reward, "because")}, reward, sample)
        for sample, reward in enumerate(rewards)
    ]
    return Group(task, tuple(rollouts))


def record(tmp_path) -> Index:
    """Two files of attempts: both questions at 1, the second one again at 2."""
    run = Run(tmp_path, "zero")
    run.rollouts(1, [group(ONE, 1.0, 0.0), group(TWO, None, 1.0, 1.0)])
    run.rollouts(2, [group(TWO, 0.0, 0.0, finish="length")])
    return Index(tmp_path)


def test_a_line_says_what_a_list_of_questions_shows(tmp_path):
    first, second = record(tmp_path).groups(1)
    assert (first.task, first.prompt, first.samples) == ("a/1", "How much is 1 + 1?", 2)
    assert (first.reward, first.low, first.high, first.spread, first.cut) == (0.5, 0.0, 1.0, 1.0, 0)
    assert (second.reward, second.scores, second.tokens) == (1.0, {"accuracy": 1.0}, 3)
    assert [one.cut for one in Index(tmp_path).groups(2)] == [2]


def test_a_question_is_read_without_the_rest_of_its_file(tmp_path):
    index = record(tmp_path)
    first, second = index.groups(1)
    file = tmp_path / "rollouts" / "000001.jsonl.gz"
    content = file.read_bytes()
    file.write_bytes(b"\0" * first.size + content[first.size :])
    assert second.at == first.size
    assert [row["sample"] for row in index.rows(1, 1)] == [0, 1, 2]


def test_a_file_is_still_plain_gzipped_json_lines(tmp_path):
    record(tmp_path)
    file = tmp_path / "rollouts" / "000001.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["a/1", "a/1", "b/2", "b/2", "b/2"]


def test_a_question_is_found_wherever_it_was_asked(tmp_path):
    index = record(tmp_path)
    assert [(number, place, found.samples) for number, place, found in index.of_task("b/2")] == [(1, 1, 3), (2, 0, 2)]
    assert index.of_task("b") == []


def test_without_its_line_a_file_is_read_itself(tmp_path):
    whole = record(tmp_path)
    expected = [(n, p, found.reward, found.cut) for n, p, found in whole.of_task("b/2")]
    lines = (tmp_path / INDEX).read_bytes().splitlines(keepends=True)
    for left in (b"", lines[0], lines[1], lines[0] + lines[1][:30]):
        (tmp_path / INDEX).write_bytes(left)
        index = Index(tmp_path)
        assert [(n, p, found.reward, found.cut) for n, p, found in index.of_task("b/2")] == expected
        assert [row["reward"] for row in index.rows(1, 1)] == [None, 1.0, 1.0]


def test_a_file_written_as_one_piece_opens_too(tmp_path):
    record(tmp_path)
    file = tmp_path / "rollouts" / "000001.jsonl.gz"
    file.write_bytes(zipped(list(read_rows(file)), level=9))
    assert [found.task for found in Index(tmp_path).groups(1)] == ["a/1", "b/2"]
    assert len(Index(tmp_path).rows(1, 1)) == 3


def test_a_step_done_again_after_a_kill_shows_what_was_done_last(tmp_path):
    Run(tmp_path, "zero", attempt=1).rollouts(1, [group(ONE, 0.0, 0.0, text="a first attempt that was lost")])
    again = Run(tmp_path, "zero", attempt=2)
    again.latest()
    assert Index(tmp_path).numbers() == []
    assert Index(tmp_path).of_task("a/1") == []
    again.rollouts(1, [group(TWO, 1.0)])
    assert [found.task for found in Index(tmp_path).groups(1)] == ["b/2"]
    assert Index(tmp_path).of_task("a/1") == []


def test_what_is_not_there_is_an_error_that_says_so(tmp_path):
    index = record(tmp_path)
    with pytest.raises(InputError, match="no attempts at 7"):
        index.groups(7)
    with pytest.raises(InputError, match="file 1 has 2 groups"):
        index.rows(1, 2)
