"""Prompt sensitivity, worked out by hand, and on the embedded base with templates that give the answer away."""

from __future__ import annotations

import numpy as np
import pytest

from thinkery.cli.models import open_model
from thinkery.core import Completion, Group, Rollout, Sampling, Score, Task
from thinkery.evals.benchmark import Benchmark, evaluate
from thinkery.evals.sensitivity import ByTemplate, spread_by_chance, under_templates
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.rubric import Rubric
from thinkery.tasks.world.documents import PREAMBLES

TEMPLATES = ("{question}", "Please: {question}", "{question} Now.")


def group(question: str, template: int, scores: list[float | None]) -> Group:
    task = Task(f"{question}/{template}", "?", info={"question": question, "template": template})
    said = Completion("x")
    return Group(task, tuple(Rollout(task, (), said, {"accuracy": Score(s)}, s, i) for i, s in enumerate(scores)))


def figures(*groups: Group) -> dict[str, float]:
    found = ByTemplate(TEMPLATES)
    for one in groups:
        found.add(one)
    return {name: estimate["value"] for name, estimate in found.estimates().items()}


def test_mean_worst_and_spread_are_those_of_the_templates() -> None:
    found = figures(
        group("a", 1, [1, 1]), group("a", 2, [1, 0]), group("a", 3, [0, 0]),
        group("b", 3, [0, 1]), group("b", 1, [1, 1]), group("b", 2, [1, 1]),
    )  # fmt: skip
    assert (found["pass@1/template=1"], found["pass@1/template=2"], found["pass@1/template=3"]) == (1.0, 0.75, 0.25)
    assert found["template_mean"] == found["pass@1"] == pytest.approx(8 / 12)
    assert found["template_worst"] == 0.25
    assert found["template_spread"] == 0.75


def test_a_question_without_a_grade_under_one_template_counts_under_none() -> None:
    groups = [group("a", n, [1]) for n in (1, 2, 3)] + [group("b", 1, [0]), group("b", 2, [None]), group("b", 3, [0])]
    assert figures(*groups)["template_mean"] == 1.0
    assert figures(*groups[3:]) == {}


def test_intervals_are_over_questions() -> None:
    found = ByTemplate(TEMPLATES)
    for n in range(40):
        for template in (1, 2, 3):
            found.add(group(f"q{n:02}", template, [float(n % 2 == 0 or template == 1)]))
    estimates = found.estimates()
    assert {estimate["n"] for estimate in estimates.values()} == {40}
    spread = estimates["template_spread"]
    # right on all 40 against 20 of them: half of the questions differ by 1, so ± 1.96 · √(0.25 / 40)
    assert spread["value"] == 0.5
    assert spread["low"] == pytest.approx(0.345, abs=0.03)
    assert spread["high"] == pytest.approx(0.655, abs=0.03)
    assert list(estimates)[:3] == ByTemplate(TEMPLATES).names[:3]
    assert set(ByTemplate(TEMPLATES).names) | {"pass@1"} == set(estimates)


def test_some_spread_is_there_by_chance() -> None:
    assert spread_by_chance(np.array([[1.0, 0.0]])) == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    # two questions, each right under one of two templates: the same one (spread 1) or not (spread 0), evenly
    found = spread_by_chance(np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert found["value"] == pytest.approx(0.5, abs=0.05)
    assert (found["low"], found["high"]) == (0.0, 1.0)
    assert spread_by_chance(np.full((5, 3), 0.4))["value"] == pytest.approx(0.0)


def test_a_question_is_asked_under_every_template_with_an_id_of_its_own() -> None:
    tasks = [Task("a", "1?", info={"difficulty": 3}), Task("b", "2?")]
    paper = under_templates(Benchmark("two", tasks, Rubric(accuracy=accuracy), samples=2), TEMPLATES)
    assert [task.prompt for task in paper.tasks] == ["1?", "2?", "Please: 1?", "Please: 2?", "1? Now.", "2? Now."]
    assert paper.tasks[2].id == "a/template=2"
    assert paper.tasks[2].info == {"difficulty": 3, "question": "a", "template": 2}
    assert (paper.name, paper.samples) == ("two", 2)


def test_templates_that_say_too_much_are_told_apart_on_the_embedded_base() -> None:
    """One ends with the finished thought, and the base writes the answer; one with the answer, and nothing is left."""
    thought = "User: {{ messages[-1].content }}\nAssistant: <think> C, swap A B, at C. </think>"
    templates = [f"{PREAMBLES[1]}\n{thought}", f"{PREAMBLES[1]}\n{thought} <answer> C </answer>"]
    asked = "The ball is under C. Swap A and B. Where is the ball?"
    tasks = [Task(f"t{n}", asked, "choice", gold, "en") for n, gold in enumerate("CCCB")]
    paper = Benchmark("told", tasks, Rubric(accuracy=accuracy), Sampling(temperature=0, max_tokens=8), samples=1)
    with open_model("tiny", "world-zero") as engine:
        found = evaluate(engine, under_templates(paper, templates), seed=0)
    values = {name: found[name]["value"] for name in found}
    assert (values["pass@1/template=1"], values["pass@1/template=2"]) == (0.75, 0.0)
    assert (values["template_mean"], values["template_worst"], values["template_spread"]) == (0.375, 0.0, 0.75)
    assert found["pass@1"]["n"] == 4
