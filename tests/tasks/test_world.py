"""The embedded world: its problems, its corpus, its general prompts, its rules and its editor."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import islice

import pytest

from thinkery.core import Completion, Task
from thinkery.tasks.world import documents, follows, general, prefer, problems, quality, unsafe
from thinkery.tasks.world.editor import rewrite
from thinkery.tasks.world.general import REFUSAL
from thinkery.tasks.world.problems import Problem, draw, question


def said(answer: str, thought: str | None = None) -> Completion:
    return Completion(answer, answer=answer, thought=thought, closed=thought is not None)


def test_a_chain_is_worked_out_by_hand() -> None:
    problem = Problem("chain", 12, (("add", 7), ("take", 3), ("add", 15)))
    assert problem.states == (12, 19, 16, 31)
    assert problem.gold == "31"
    assert question(problem, "en") == "Start with 12. Add 7. Take 3. Add 15. What is the result?"
    assert question(problem, "zh") == "从 12 开始，加 7，减 3，加 15，结果是多少？"


def test_a_ball_follows_the_swaps_of_its_cup_only() -> None:
    problem = Problem("cups", "C", (("A", "C"), ("B", "D"), ("F", "A")))
    assert problem.states == ("C", "A", "A", "F")


def test_reordering_the_steps_does_not_change_the_split() -> None:
    rng = random.Random(0)
    for _ in range(200):
        problem = draw(rng, "chain", 5)
        steps = list(problem.steps)
        rng.shuffle(steps)
        assert Problem("chain", problem.start, tuple(steps)).held_out == problem.held_out
    swapped = Problem("cups", "A", (("B", "A"), ("C", "D")))
    assert swapped.canonical == Problem("cups", "A", (("D", "C"), ("A", "B"))).canonical


def test_splits_share_no_question_and_a_seed_always_gives_the_same() -> None:
    train = {task.prompt for task in problems("train", 1, 800)}
    exam = {task.prompt for task in problems("held-out", 1, 800)}
    assert len(train) == len(exam) == 800
    assert not train & exam
    assert exam == {task.prompt for task in problems("held-out", 1, 800)}


def test_kinds_and_languages_are_even_and_answers_hard_to_guess() -> None:
    tasks = list(problems("held-out", 3, 400))
    assert Counter(task.kind for task in tasks) == {"math": 200, "choice": 200}
    assert Counter(task.language for task in tasks) == {"en": 200, "zh": 200}
    assert max(Counter(t.gold for t in tasks if t.kind == "math").values()) < 20
    assert max(Counter(t.gold for t in tasks if t.kind == "choice").values()) < 60


def test_no_held_out_problem_is_in_the_corpus_in_any_order() -> None:
    found = 0
    for text in islice(documents(5), 4000):
        for start, steps in re.findall(r"Start with (\d+)\. (.*?) What is", text):
            pairs = tuple((word.lower(), int(n)) for word, n in re.findall(r"(Add|Take) (\d+)\.", steps))
            found += 1
            assert not Problem("chain", int(start), pairs).held_out
        for start, steps in re.findall(r"球在 ([A-F])，((?:换 [A-F] 和 [A-F]，)+)球在哪里", text):
            found += 1
            assert not Problem("cups", start, tuple(re.findall(r"换 ([A-F]) 和 ([A-F])", steps))).held_out
    assert found > 800


def test_no_held_out_general_prompt_is_in_the_corpus() -> None:
    exam = {task.prompt for task in general("held-out", 0, 400)}
    assert len(exam) > 50
    assert not any(prompt in text.split("\n") for text in islice(documents(6), 4000) for prompt in exam)


def test_the_corpus_is_mostly_bare_answers_some_worked_few_in_tags() -> None:
    asked = [text for text in islice(documents(7), 6000) if re.search(r"(result\?|多少？|ball\?|哪里？)", text)]
    tagged = sum("<think>" in text.split("Assistant:")[-1] for text in asked) / len(asked)
    worked = sum(len(re.findall(r" is \d+\.| 得 |, at |，在 ", text)) >= 2 for text in asked) / len(asked)
    assert 0.03 < tagged < 0.15
    assert 0.2 < worked < 0.5


def asked(topic: str, language: str = "en") -> Task:
    return next(t for t in general("train", 2, 400) if t.info["topic"] == topic and t.language == language)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_refusing_harm_is_right_and_refusing_help_is_not(language: str) -> None:
    refusal = said(REFUSAL[language])  # type: ignore[index]
    assert follows(asked("harm", language), refusal).value == 1.0
    assert not unsafe(asked("harm", language), refusal)
    assert unsafe(asked("harm", language), said("Take a tool."))
    assert follows(asked("colour", language), refusal).value == 0.0


def test_rules_count_words() -> None:
    task = asked("repeat")
    word, n = task.info["count"]
    assert follows(task, said(", ".join([word] * n))).value == 1.0
    assert follows(task, said(", ".join([word] * (n + 1)))).value == 0.0


def test_an_open_thought_earns_nothing() -> None:
    task = asked("self")
    assert follows(task, Completion("Thinkery", thought="Thinkery", answer="", closed=False)).value == 0.0


def test_the_better_answer_is_preferred_in_either_order() -> None:
    task = asked("colour")
    right = said(f"The answer is {task.info['must'][0]}. I hope this helps.")
    wrong = said("tea")
    assert quality(task, right) == 5.0
    assert quality(task, wrong) == 0.5
    rng = random.Random(0)
    assert prefer(task, right, wrong, rng) == "A>>B"
    assert prefer(task, wrong, right, rng) == "B>>A"
    assert prefer(task, right, right, rng) == "A=B"


def test_the_editor_keeps_the_steps_and_their_mistakes_in_the_language_asked_for() -> None:
    thought = "12 加 7 得 19。 19 minus 3 is 17. Wait, check. 19 减 3 得 16。"
    rewritten, answer = rewrite("Start with 12. …", thought, "<answer> 16 </answer>", "en")
    assert rewritten == (
        "I go step by step. 12 plus 7 is 19. 19 minus 3 is 17. Wait, check. 19 minus 3 is 16. So I get 16."
    )
    assert answer == "The answer is \\boxed{16}."
    rewritten, answer = rewrite("球在 C，…", "C, swap A C, at A. A，换 B D，在 A。", "A", "zh")
    assert rewritten == "我一步一步来。 C，换 A C，在 A。 A，换 B D，在 A。 所以我得 A。"
    assert answer == "答案是 \\boxed{A}。"
