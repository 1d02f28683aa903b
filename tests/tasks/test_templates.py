"""Prompt templates: how a task is put, which one a question draws, and the sets that are shipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from thinkery.chat import R1_ZERO, render
from thinkery.core import Task
from thinkery.tasks.templates import TEMPLATE_SETS, is_instruction, put, put_one
from thinkery.tasks.world import ZERO_TEMPLATE
from thinkery.tasks.world.documents import PREAMBLES

EXAMS = [name for name in TEMPLATE_SETS if name.endswith("-exam")]
SUM = Task("sum", "What is {2} + 3?", "math", "5", "en", info={"difficulty": 1})


def asked(task: Task) -> str:
    """What the model reads."""
    return render(task.chat_template or "{{ messages[-1].content }}", task.messages, eos="<|end|>")


def test_an_instruction_rewords_what_the_user_says_and_nothing_else() -> None:
    task = put(SUM, "Think.\n{question}\nAnswer {question} now.", 4)
    assert asked(task) == "Think.\nWhat is {2} + 3?\nAnswer What is {2} + 3? now."
    assert (task.id, task.gold, task.chat_template) == ("sum", "5", "")
    assert task.info == {"difficulty": 1, "template": 4}
    assert SUM.info == {"difficulty": 1}


def test_jinja_is_the_whole_prompt_and_leaves_the_question_as_it_is() -> None:
    task = put(SUM, "Q: {{ messages[-1].content }} A:", 2)
    assert asked(task) == "Q: What is {2} + 3? A:"
    assert (task.prompt, task.info["template"]) == (SUM.prompt, 2)


def test_a_question_draws_its_template_by_the_seed_and_its_id_alone() -> None:
    tasks = [Task(f"t{n}", f"{n}?") for n in range(300)]
    templates = ("{question}", "First. {question}", "{question} Last.")
    drawn = [put_one(task, templates, seed=1) for task in tasks]
    assert [put_one(task, templates, seed=1) for task in reversed(tasks)] == drawn[::-1]
    assert [put_one(task, templates, seed=2) for task in tasks] != drawn
    assert [task.prompt for task in drawn[:1]] == [templates[drawn[0].info["template"] - 1].replace("{question}", "0?")]
    counts = Counter(task.info["template"] for task in drawn)
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 75


@pytest.mark.parametrize("name", EXAMS)
def test_an_exam_is_ten_wordings_of_which_practice_knows_the_first_alone(name: str) -> None:
    exam, practice = TEMPLATE_SETS[name], TEMPLATE_SETS[name.replace("exam", "practice")]
    assert len(exam) == len(set(exam)) == 10
    assert len(practice) == len(set(practice)) >= 6
    assert set(exam) & set(practice) == {exam[0]} == {practice[0]}


def test_the_first_template_is_the_one_that_is_asked_with_anyway() -> None:
    assert TEMPLATE_SETS["r1-zero-exam"][0] == R1_ZERO
    assert TEMPLATE_SETS["world-zero-exam"][0] == ZERO_TEMPLATE
    assert {TEMPLATE_SETS[f"{kind}-exam"][0] for kind in ("chat", "world-chat")} == {"{question}"}


@pytest.mark.parametrize("name", TEMPLATE_SETS)
def test_every_template_asks_the_question_and_those_of_base_models_name_the_tags_in_order(name: str) -> None:
    for template in TEMPLATE_SETS[name]:
        assert is_instruction(template) == ("zero" not in name)
        text = asked(put(SUM, template, 1))
        assert text.count(SUM.prompt) == 1
        if "zero" in name:
            assert text.endswith("Assistant:")
            assert all(tag in text for tag in ("<think>", "</think>", "<answer>", "</answer>"))


def test_the_base_knows_the_words_and_few_of_the_wordings() -> None:
    preambles = [template.split("\n")[0] for template in TEMPLATE_SETS["world-zero-exam"]]
    assert [PREAMBLES.index(preamble) for preamble in preambles if preamble in PREAMBLES] == [0, 1, 3]
    known, met = words(PREAMBLES), words(preambles)
    assert len(known & met) / len(met) > 0.7


def words(texts: Iterable[str]) -> set[str]:
    return {word.strip(".,:").lower() for text in texts for word in text.split()}
