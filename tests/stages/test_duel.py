"""Wins counted by hand, on exams that real steps recorded."""

import pytest

from thinkery.config import Config
from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.errors import InputError
from thinkery.pipeline.artifact import Report
from thinkery.pipeline.build import build
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step
from thinkery.stages.duel import Duel, duel


class Exam(Config):
    """What an exam recorded: for each question the preference score of each attempt."""

    stage: str
    scores: dict[str, list[float | None]]


def examine(run: Run, cfg: Exam) -> Report:
    """Record the scores as an evaluation does."""
    run.rollouts(0, [group(id, scores) for id, scores in cfg.scores.items()])
    return run.save_report({"stage": cfg.stage, "metrics": {}})


def group(id: str, scores: list[float | None]) -> Group:
    task = Task(id, f"Question {id}", "general")
    said = Completion("words", (1,), answer="words")
    return Group(
        task,
        tuple(Rollout(task, (), said, {"preference": Score(s)}, s, i) for i, s in enumerate(scores)),
    )


def fight(tmp_path, first, second):
    steps = [
        step("first", examine, Exam(stage="align", scores=first)),
        step("second", examine, Exam(stage="refine", scores=second)),
    ]
    last = step("duel", duel, Duel(), first=steps[0], second=steps[1])
    return build({one.name: one for one in (*steps, last)}, tmp_path)["duel"].data


def test_every_attempt_meets_every_attempt_and_a_small_difference_is_half_a_win(tmp_path):
    found = fight(tmp_path, {"a": [1.0, 0.5], "b": [0.2], "c": [0.9]}, {"a": [0.5, 0.0], "b": [0.25], "c": [None]})
    # a: 1.0 beats both, 0.5 ties and beats: (1 + 1 + 0.5 + 1) / 4; b: a tie; c: nothing to compare with
    assert found["stage"] == "align-vs-refine"
    assert found["metrics"]["wins"]["value"] == pytest.approx((3.5 / 4 + 0.5) / 2)
    assert found["metrics"]["wins"]["n"] == 2


def test_exams_without_a_common_question_are_an_error(tmp_path):
    with pytest.raises(InputError, match="preference"):
        fight(tmp_path, {"a": [1.0]}, {"b": [1.0]})
