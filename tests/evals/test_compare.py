"""Paired comparisons, on files of attempts and on the record of a real run."""

import json

import pytest

from thinkery.cli.main import main
from thinkery.config import Config
from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.errors import InputError
from thinkery.evals.compare import Sheet, compare, open_sheets, read_sheet
from thinkery.evals.metrics import share_estimate
from thinkery.pipeline.artifact import Report
from thinkery.pipeline.build import build
from thinkery.pipeline.record import rollout_row
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step


class Exam(Config):
    """Which of the four questions are right."""

    right: tuple[int, ...]


def groups(right):
    """Two attempts at each of four questions; a right one has both right."""
    for i in range(4):
        task = Task(f"q{i}", f"What is {i} + {i}?", "math", str(2 * i))
        score = {"accuracy": Score(float(i in right))}
        yield Group(task, tuple(Rollout(task, (), Completion("…"), score, 1.0, sample) for sample in range(2)))


def sit(run: Run, cfg: Exam) -> Report:
    """Record the attempts as an evaluation does."""
    run.rollouts(0, list(groups(cfg.right)))
    return run.save_report({"stage": run.step.removeprefix("eval-"), "metrics": {}})


@pytest.fixture
def run(tmp_path):
    steps = {
        "eval-base": step("eval-base", sit, Exam(right=(0,))),
        "eval-zero": step("eval-zero", sit, Exam(right=(1, 2))),
    }
    build(steps, tmp_path / "run", seed=0)
    return tmp_path / "run"


def rows(right):
    return [json.loads(json.dumps(rollout_row(0, rollout))) for group in groups(right) for rollout in group.rollouts]


def test_questions_that_changed_sides_are_named():
    change = compare(read_sheet(rows((0, 1))), read_sheet(rows((1, 2, 3))))
    assert (change.gained, change.lost) == (("q2", "q3"), ("q0",))
    assert (change.difference["value"], change.difference["n"]) == (0.25, 4)


def test_the_interval_is_over_pairs_so_that_a_constant_gain_is_sure_though_the_questions_differ():
    before = [{"task": f"q{i}", "prompt": "", "scores": {"accuracy": {"value": i / 20}}} for i in range(10)]
    after = [row | {"scores": {"accuracy": {"value": row["scores"]["accuracy"]["value"] + 0.25}}} for row in before]
    found = compare(read_sheet(before), read_sheet(after)).difference
    assert found["value"] == pytest.approx(0.25)
    assert found["low"] == pytest.approx(0.25 - 2.262 * 0.5 / 12, abs=1e-3)  # one of the two more is 0.5 away
    first, second = share_estimate([i / 20 for i in range(10)]), share_estimate([i / 20 + 0.25 for i in range(10)])
    assert first["high"] > second["low"]


def test_three_questions_that_all_turn_right_are_not_certain():
    before, after = ({f"q{i}": value for i in range(3)} for value in (0.0, 1.0))
    found = compare(Sheet(before, dict.fromkeys(before, "?")), Sheet(after, dict.fromkeys(after, "?"))).difference
    assert (found["value"], found["high"]) == (1.0, 1.0)
    assert found["low"] < 0


def test_questions_that_share_an_id_and_no_words_are_not_compared():
    before = rows((0, 1))
    after = [row | {"prompt": "What else?"} if row["task"] == "q0" else row for row in rows((1, 2))]
    change = compare(read_sheet(before), read_sheet(after))
    assert (change.other, change.difference["n"], change.gained, change.lost) == (1, 3, ("q2",), ())
    with pytest.raises(InputError, match="4 ids that name other questions"):
        compare(read_sheet(before), read_sheet([row | {"prompt": "Else?"} for row in before]))


def test_ungraded_attempts_are_left_out_and_the_rest_is_averaged():
    values = [1.0, None, 0.0]
    made = [{"task": "q", "prompt": "?", "scores": {"accuracy": {"value": value}}} for value in values]
    assert read_sheet(made).scores == {"q": 0.5}
    assert read_sheet([{"task": "q", "prompt": "?", "scores": {}}]).scores == {}


def test_sheets_without_a_common_question_cannot_be_compared():
    with pytest.raises(InputError, match="share no question"):
        compare(read_sheet(rows(())), read_sheet([{"task": "x", "prompt": "", "scores": {"accuracy": {"value": 1}}}]))


def test_a_run_has_a_sheet_for_every_exam_and_a_stage_names_one(run):
    assert list(open_sheets(str(run))) == ["base", "zero"]
    assert open_sheets(f"{run}:zero")[f"{run}:zero"].scores == {"q0": 0.0, "q1": 1.0, "q2": 1.0, "q3": 0.0}
    with pytest.raises(InputError, match="no step"):
        open_sheets(f"{run}:cero")
    with pytest.raises(InputError, match="'fluency'"):
        open_sheets(str(run), "fluency")


def test_the_command_compares_stages_with_files_of_attempts(run, tmp_path, capsys):
    file = tmp_path / "attempts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows((0, 1, 2, 3))))
    assert main(["compare", str(run), str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first"]["base"]["value"]["value"] == 0.25
    assert found["compared"]["zero"]["lost"] == ["q0"]
    assert found["compared"][str(file)]["difference"]["value"] == 0.75
    assert main(["compare", str(run)]) == 0
    out = capsys.readouterr().out
    assert "zero lost q0 (1 to 0): What is 0 + 0?" in out
    assert "+0.250" in out


def test_two_runs_with_stages_of_one_name_are_both_compared(run, tmp_path, capsys):
    build({"eval-base": step("eval-base", sit, Exam(right=(0, 1, 2, 3)))}, tmp_path / "other", seed=0)
    assert main(["compare", str(run), str(tmp_path / "other"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["first"]) == [f"{run}:base"]
    assert list(found["compared"]) == [f"{run}:zero", f"{tmp_path}/other:base"]
    assert found["compared"][f"{tmp_path}/other:base"]["difference"]["value"] == 0.75


def test_the_command_says_how_many_questions_it_compared(run, tmp_path, capsys):
    other = [row | {"prompt": "What else?"} if row["task"] == "q0" else row for row in rows((0, 1))]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    assert main(["compare", f"{run}:base", str(tmp_path / "other.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "1 ids name other questions" in out
    assert next(line.split()[-3:] for line in out.splitlines() if "other.jsonl" in line) == ["3", "1", "0"]


def test_one_thing_alone_is_refused(run, capsys):
    assert main(["compare", f"{run}:zero"]) == 2
    assert "nothing to be compared with" in capsys.readouterr().err


def test_the_torn_last_line_of_an_evaluation_that_was_killed_does_not_count(tmp_path):
    rows = [rollout_row(0, rollout) for group in groups({0, 1}) for rollout in group.rollouts]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "attempts.jsonl").write_text(text + '{"step": 0, "ta')
    [sheet] = open_sheets(str(tmp_path)).values()
    assert sheet.scores == {"q0": 1.0, "q1": 1.0, "q2": 0.0, "q3": 0.0}


def test_four_attempts_say_more_than_one():
    rows = [
        {"task": f"q{n}", "prompt": "?", "scores": {"accuracy": {"value": v}}} for n in range(99) for v in (1, 0, 1, 0)
    ]
    assert read_sheet(rows).estimate() == share_estimate([0.5] * 99, 4)
    assert read_sheet(rows).estimate()["low"] > share_estimate([0.5] * 99, 1)["low"] + 0.04
