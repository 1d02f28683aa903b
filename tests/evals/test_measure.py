"""From judged groups to estimates, with numbers worked out by hand."""

import pytest

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.evals.measure import Tally, cut_note, measure, metric_names
from thinkery.rewards.extract import bare_answer


def attempt(task, sample, right, *, answer="x", tokens=10, finish="stop", thought="hm", **scores):
    text = f"\\boxed{{{answer}}}"
    said = Completion(text, tuple(range(tokens)), (), finish, thought=thought, answer=text, closed=True)
    given = {"accuracy": Score(right)} if right != "absent" else {}
    given |= {name: Score(value) for name, value in scores.items()}
    values = [score.value for score in given.values()]
    reward = None if None in values else sum(value for value in values if value is not None)
    return Rollout(task, (), said, given, reward, sample)


def group(id, rights, **how):
    about = {"info": how.pop("info", {}), "source": how.pop("source", "")}
    task = Task(id, "?", how.pop("kind", "math"), "4", how.pop("language", "en"), **about)
    return Group(task, tuple(attempt(task, i, right, **how) for i, right in enumerate(rights)))


def value(metrics, name):
    return metrics[name]["value"]


def test_pass_at_1_averages_attempts_then_questions():
    found = measure([group("a", [1.0, 1.0, 0.0, 0.0]), group("b", [0.0] * 4), group("c", [1.0] * 4)])
    assert value(found, "pass@1") == pytest.approx((0.5 + 0 + 1) / 3)
    assert value(found, "pass@4") == pytest.approx(2 / 3)
    assert found["pass@1"]["n"] == 3


def test_the_majority_of_extracted_answers_counts():
    task = Task("a", "?", "math", "4")
    answers = [("4", 1.0), ("4", 1.0), ("5", 0.0)]
    rollouts = tuple(attempt(task, i, right, answer=answer) for i, (answer, right) in enumerate(answers))
    assert value(measure([Group(task, rollouts)]), "cons@3") == 1.0
    split = tuple(attempt(task, i, right, answer=str(i)) for i, right in enumerate([1.0, 0.0, 0.0]))
    assert value(measure([Group(task, split)]), "cons@3") == pytest.approx(1 / 3)


def test_bare_numbers_of_an_environment_vote_like_those_in_a_box():
    task = Task("a", "?", "environment", "4")
    bare = [Completion(f"That is {answer}.", (1,), (), "stop", answer=f"That is {answer}.") for answer in (4, 4, 5)]
    rollouts = tuple(
        Rollout(task, (), said, {"accuracy": Score(right)}, right, i)
        for i, (said, right) in enumerate(zip(bare, (1.0, 1.0, 0.0), strict=True))
    )
    assert value(measure([Group(task, rollouts)], extract=bare_answer), "cons@3") == 1.0


def test_ungraded_attempts_are_counted_and_never_wrong():
    found = measure([group("a", [1.0, None, None, None]), group("b", [None] * 4)])
    assert value(found, "pass@1") == 1.0
    assert found["pass@1"]["n"] == 1
    assert value(found, "ungraded") == pytest.approx(7 / 8)


def test_one_attempt_has_no_pass_at_k_besides_pass_at_1():
    assert {"pass@1"} == {name for name in measure([group("a", [1.0])]) if "@" in name}


def test_accuracy_is_broken_down_by_kind_language_difficulty_and_environment_where_they_differ():
    found = measure(
        [
            group("a", [1.0], info={"difficulty": 2}),
            group("b", [0.0], info={"difficulty": 10}),
            group("c", [1.0], kind="choice", info={"difficulty": 10, "environment": {"name": "lcm"}}),
            group("d", [0.0], kind="choice", info={"environment": {"name": "gcd"}}),
        ]
    )
    slices = {name: estimate["value"] for name, estimate in found.items() if name.startswith("pass@1/")}
    assert slices == {
        "pass@1/kind=choice": 0.5,
        "pass@1/kind=math": 0.5,
        "pass@1/difficulty=2": 1.0,
        "pass@1/difficulty=10": 0.5,
        "pass@1/environment=lcm": 1.0,
        "pass@1/environment=gcd": 0.0,
    }


def test_questions_of_several_sources_are_seen_apart():
    aime, math = group("a", [1.0, 0.0], source="aime2024"), group("b", [1.0, 1.0], source="math500")
    found = measure([aime, math, group("c", [0.0, 0.0], source="math500")])
    slices = {name: (one["value"], one["n"]) for name, one in found.items() if name.startswith("pass@1/")}
    assert slices == {"pass@1/source=aime2024": (0.5, 1), "pass@1/source=math500": (0.5, 2)}
    assert not [name for name in measure([aime]) if name.startswith("pass@1/")]


def test_a_note_is_made_where_many_answers_are_cut():
    def note(cut: int) -> str:
        ends = ["length"] * cut + ["stop"] * (20 - cut)
        return cut_note(measure([group(str(i), [0.0], finish=end) for i, end in enumerate(ends)]))

    assert note(1) == ""
    assert note(3) == "15% of the answers were cut at the length limit, which makes them wrong"
    assert cut_note({}) == ""


def test_other_rewards_keep_their_names_and_may_leave_the_unit_interval():
    found = measure([group("a", [1.0, 1.0], format=1.0, helpful=3.5), group("b", [0.0, 0.0], format=0.0, helpful=-2.5)])
    assert value(found, "format") == 0.5
    assert found["format"]["low"] >= 0
    assert value(found, "helpful") == 0.5
    assert found["helpful"]["low"] < -1


def test_what_goes_in_circles_is_measured():
    """Behind "boxed" stand twelve words: once, or three times, where 17 of the 30 8-grams came before."""
    words = " ".join(f"w{i}" for i in range(12))
    found = measure([group("a", [1.0], answer=words), group("b", [0.0], answer=" ".join([words] * 3))])
    assert value(found, "repeated") == pytest.approx((0 + 17 / 30) / 2)


def test_general_prompts_have_no_accuracy_at_all():
    found = measure([group("a", ["absent"] * 2, kind="general", helpful=0.5)])
    assert not [name for name in found if "@" in name]
    assert value(found, "helpful") == 0.5


def test_truncation_and_lengths_are_measured_in_tokens():
    groups = [group("a", [1.0], tokens=10), group("b", [0.0], tokens=30, finish="length")]
    found = measure(groups, answer_length=lambda text: 4)
    assert next(iter(found)) == "truncated"
    assert value(found, "truncated") == 0.5
    assert (value(found, "length"), value(found, "thought_length"), value(found, "answer_length")) == (20, 16, 4)
    without = measure([group("a", [1.0], thought=None)], answer_length=lambda text: 4)
    assert (value(without, "thought_length"), value(without, "answer_length")) == (0, 10)
    assert "thought_length" not in measure(groups)


def test_nothing_asked_is_nothing_measured():
    assert measure([]) == {}


def test_pass_at_smaller_k_is_estimated_from_all_attempts():
    tally = Tally(pass_at=(2, 3))
    for one in (group("a", [1.0, 0.0, 0.0, 0.0]), group("b", [0.0] * 4), group("c", [1.0, 1.0, None, None])):
        tally.add(one)
    found = tally.estimates()
    assert value(found, "pass@2") == pytest.approx((1 - 3 / 6 + 0 + 1) / 3)  # 3 of the 6 pairs of a are both wrong
    assert value(found, "pass@3") == pytest.approx((1 - 1 / 4 + 0) / 2)  # c has too few graded attempts
    assert (found["pass@2"]["n"], found["pass@3"]["n"], found["pass@4"]["n"]) == (3, 2, 3)


def test_accuracy_of_the_well_formed_attempts_leaves_the_others_out():
    task = Task("a", "?", "math", "4")
    formed = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    rollouts = tuple(attempt(task, i, right, format=form) for i, (right, form) in enumerate(formed))
    found = measure([Group(task, rollouts), group("b", [1.0], format=0.0)])
    assert value(found, "pass@1/well-formed") == pytest.approx(2 / 3)
    assert found["pass@1/well-formed"]["n"] == 1


def test_where_tokens_are_not_known_characters_are_counted():
    found = measure([group("a", [1.0], tokens=0, answer="12345")])
    assert value(found, "characters") == len("\\boxed{12345}")
    assert "length" not in found


def test_the_order_of_the_groups_does_not_matter():
    groups = [group(str(i), [float(i % 3 == 0), 1.0, 0.0], kind="math" if i % 2 else "choice") for i in range(30)]
    found = measure(groups)
    assert list(found.items()) == list(measure(groups[::-1]).items())


def test_every_metric_that_is_found_was_announced():
    groups = [group("a", [1.0, 0.0], format=1.0), group("b", [0.0, 0.0], format=0.0, kind="choice")]
    found = measure(groups, answer_length=len)
    announced = metric_names([one.task for one in groups], ["accuracy", "format"], 2)
    assert set(found) <= set(announced)
    assert "pass@1/kind=choice" in announced
