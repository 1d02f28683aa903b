"""The bias probe: what moves with a word, what moves by chance, and what does not move."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from thinkery.core import Completion, Group, Rollout, Score, Task
from thinkery.evals.bias import STOCK_ANSWER, Bias, Difference, bias_rubric, both_sides, distance, summary, words_of
from thinkery.evals.metrics import t_quantile
from thinkery.rewards.rubric import Rubric
from thinkery.tasks.counterfactual import SITUATIONS, counterfactuals

REFUSAL, ANSWER = "I can't help with that.", "Talk about it calmly."
Model = Callable[[Task, int], str]


def probed(model: Model, rubric: Rubric | None = None, samples: int = 2) -> dict:
    """The estimates for a model that is a function of the prompt and the number of the sample."""
    probe, rubric = Bias(), rubric or bias_rubric()
    for task in both_sides(list(counterfactuals())):
        said = [Completion("", answer=model(task, n)) for n in range(samples)]
        scored = rubric.judge([(task, one) for one in said])
        probe.add(Group(task, tuple(Rollout(task, (), one, *both) for one, both in zip(said, scored, strict=True))))
    return probe.estimates()


def test_a_model_that_answers_everybody_alike_does_not_move() -> None:
    found = probed(lambda task, n: f"{ANSWER} {task.info['situation']}")
    assert set(found) < set(Bias().names)
    assert {estimate["value"] for estimate in found.values()} == {0.0}
    assert {estimate["n"] for estimate in found.values()} == {len(SITUATIONS)}


def test_a_model_that_refuses_the_second_person_moves_by_exactly_that() -> None:
    def unfair(task: Task, n: int) -> str:
        return REFUSAL if task.info["attribute"] == "origin" and task.info["side"] == "second" and n == 0 else ANSWER

    found = probed(unfair)
    origin = {figure: found[f"refused/origin/{figure}"] for figure in ("gap", "move", "excess")}
    assert {figure: estimate["value"] for figure, estimate in origin.items()} == {
        "gap": 0.5,
        "move": 0.5,
        "excess": 0.5,
    }
    n = origin["gap"]["n"]  # all 0.5: one of the two more that the interval adds is 1 away
    reach = t_quantile(n - 1) / (n + 2)
    assert (origin["gap"]["low"], origin["gap"]["high"]) == pytest.approx((0.5 - reach, 0.5 + reach))
    assert found["refused/gender/move"]["value"] == 0.0
    assert found["answer/origin/move"]["value"] == pytest.approx(distance(words_of(REFUSAL), words_of(ANSWER)) / 2)


def test_what_sampling_moves_is_not_taken_for_bias() -> None:
    def moody(task: Task, n: int) -> str:
        return random.Random(f"{task.id}/{n}").choice([REFUSAL, ANSWER, "It depends.", "Ask again later, please."])

    found = probed(moody, samples=4)
    for attribute in ("name", "gender", "origin"):
        assert found[f"refused/{attribute}/move"]["value"] > 0.1
        assert found[f"answer/{attribute}/move"]["value"] > 0.5
        for name in (f"refused/{attribute}/excess", f"answer/{attribute}/excess", f"refused/{attribute}/gap"):
            estimate = found[name]
            assert estimate["low"] < 0.02
            assert estimate["high"] > -0.02


def test_people_and_pronouns_are_not_what_makes_an_answer_differ() -> None:
    def polite(task: Task, n: int) -> str:
        who = task.info["second" if task.info["side"] == "second" else "first"]
        return f"Dear {who}, " + (
            "he is right." if who.endswith(("man", "brother")) and "wo" not in who else "she is right."
        )

    found = probed(polite)
    assert all(found[f"answer/{attribute}/move"]["value"] == 0 for attribute in ("name", "gender", "origin"))


def test_a_reward_is_probed_on_the_answers_and_on_one_that_is_always_the_same() -> None:
    def likes_canada(task: Task, completion: Completion) -> Score:
        return Score(float("Canada" in task.prompt) + len(completion.answer))

    found = probed(lambda task, n: ANSWER, bias_rubric(likes_canada))
    assert found["stock/origin/gap"]["value"] == pytest.approx(-1 / 4)
    assert found["score/origin/gap"]["value"] == pytest.approx(-1 / 4)
    assert found["stock/name/move"]["value"] == 0.0
    (scores, _), *_ = bias_rubric(likes_canada).judge([(Task("a", "Canada?"), Completion("", answer="x"))])
    assert (scores["score"].value, scores["stock"].value) == (2.0, 1.0 + len(STOCK_ANSWER))


def test_a_pair_without_a_graded_side_has_no_figures_of_that_reward() -> None:
    found = probed(lambda task, n: ANSWER, Rubric(refused=lambda task, completion: Score(None, "the judge is away")))
    assert not [name for name in found if name.startswith("refused")]
    assert "answer/gender/excess" in found
    assert Bias().estimates() == {}


def test_the_distance_of_two_answers_is_the_share_of_words_that_only_one_has() -> None:
    assert distance(words_of("Yes, they do."), words_of("Yes they can")) == pytest.approx(2 / 4)
    assert distance(words_of(""), words_of("")) == 0.0
    assert distance(words_of("a"), words_of("")) == 1.0


def test_a_single_situation_has_figures_without_intervals() -> None:
    estimates = summary({"0": [Difference(-1.0, 1.0, 0.25), Difference(0.0, 0.0, 0.25)]})
    assert {figure: estimate["value"] for figure, estimate in estimates.items()} == {
        "gap": -0.5,
        "move": 0.5,
        "excess": 0.25,
    }
    assert {estimate["low"] for estimate in estimates.values()} == {None}
