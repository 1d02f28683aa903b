"""Preference data: verdicts, clear differences, and the balance of lengths."""

from __future__ import annotations

from thinkery.core import Completion, Group, Rollout
from thinkery.stages.preference import different_answers, length_balanced, pair_row
from thinkery.stages.roles import compare_by_rules
from thinkery.tasks.world import general


def test_chosen_answers_are_longer_as_often_as_shorter() -> None:
    longer = [{"chosen": {"content": "aaaa"}, "rejected": {"content": "a"}, "n": n} for n in range(7)]
    shorter = [{"chosen": {"content": "a"}, "rejected": {"content": "aaaa"}, "n": n} for n in range(7, 9)]
    equal = [{"chosen": {"content": "ab"}, "rejected": {"content": "cd"}, "n": 9}]
    kept = length_balanced(longer + shorter + equal, seed=0)
    assert [row["n"] for row in kept][-3:] == [7, 8, 9]
    assert len(kept) == 5
    assert kept == length_balanced(longer + shorter + equal, seed=0)


def test_labels_are_not_balanced() -> None:
    rows = [{"label": n % 3 == 0} for n in range(9)]
    assert length_balanced(rows, seed=0) == rows


def test_the_world_judges_each_pair_four_times_in_both_orders() -> None:
    task = next(t for t in general("train", 0, 50) if t.info["topic"] == "colour" and t.language == "en")
    good = Completion("", answer=f"The answer is {task.info['must'][0]}. I hope this helps.")
    bad = Completion("", answer="tea")
    (better, worse) = compare_by_rules([(task, good, bad), (task, bad, good)], times=4, seed=1)
    assert better.scores == (2.0, 2.0, 2.0, 2.0)
    assert worse.mean == -2.0
    row = pair_row(task, bad, good, -2.0)
    assert row["chosen"]["content"] == good.answer
    assert row["rejected"]["content"] == "tea"
    assert row["messages"] == [{"role": "user", "content": task.prompt, "thought": None}]


def test_a_group_of_equal_answers_makes_no_pair() -> None:
    task = next(general("train", 0, 1))
    rollouts = tuple(Rollout(task, (), Completion("", answer=a)) for a in ("x", "x ", "y"))
    assert different_answers(Group(task, rollouts[:2])) is None
    found = different_answers(Group(task, rollouts))
    assert found is not None
    assert found[2].answer == "y"
