"""Parts of the public data that are made from files for something else, and the halves they are cut into."""

import json
import re

import pytest

from thinkery.data.decontaminate import Index
from thinkery.errors import InputError
from thinkery.pipeline.artifact import task_to_row
from thinkery.tasks import public
from thinkery.tasks.files import read_rows
from thinkery.tasks.sources import Source, load_tasks

needs_data = pytest.mark.skipif(public.data_root() is None, reason="THINKERY_DATA is not set")


@needs_data
def test_the_steps_of_gsm8k_are_different_single_calculations_with_their_results():
    tasks = load_tasks([Source(source="gsm8k", split="steps")])
    assert len(tasks) == len({task.prompt for task in tasks}) > 5000
    assert (tasks[0].prompt, tasks[0].gold) == ("What is 48 + 24?", "72")
    for task in tasks:
        found = re.fullmatch(r"What is (\d+) ([-+*]) (\d+)\?", task.prompt)
        assert found
        a, sign, b = found.groups()
        assert int(task.gold or "") == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]


def words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


@needs_data
def test_the_functions_of_mbpp_to_learn_are_in_no_evaluation_set():
    learnt = load_tasks([Source(source="mbpp")])
    exam = load_tasks([Source(source="mbpp", split="test")], purpose="exam")
    assert (len(learnt), len(exam)) == (251, 500)
    ids = {int(task.id.removeprefix("mbpp/")) for task in learnt}
    sanitized = list(read_rows(public.public_file("mbpp/sanitized-mbpp.json.gz")))
    assert ids <= set(range(601, 975)) - {row["task_id"] for _, row in sanitized}
    asked = {words(task.prompt.partition("\nThese must hold:")[0]) for task in learnt}
    tested = {words(task.prompt.partition("\nYour code")[0]) for task in exam}
    assert not asked & (tested | {words(row["prompt"]) for _, row in sanitized})


@needs_data
def test_a_function_of_mbpp_is_asked_with_its_assertions_and_judged_by_them():
    first, *_ = load_tasks([Source(source="mbpp")])
    text, tests = first.prompt.split("\nThese must hold:\n\n")
    assert (first.id, text) == (
        "mbpp/601",
        "Write a function to find the longest chain which can be formed from the given set of pairs.",
    )
    assert first.kind == "code"
    assert first.info["test"].strip() == tests.removesuffix("\n\nAnswer with one fenced block of Python.")
    assert tests.count("assert max_chain_length(") == 3


@needs_data
def test_the_wording_of_mbpp_to_learn_leaves_most_of_it_beside_a_whole_exam():
    index = Index.of(load_tasks([Source(source="mbpp", split="test")], purpose="exam"))
    left = [task for task in load_tasks([Source(source="mbpp")]) if not index.match(task.prompt)]
    assert len(left) == 195  # 56 share ten words of their own with one of the 500


@needs_data
def test_a_model_learns_its_name_without_placeholders():
    tasks = load_tasks([Source(source="general", split="identity")])
    assert len(tasks) == 91
    assert any("Thinkery" in (task.gold or "") for task in tasks)
    assert not any("{{" in f"{task.prompt} {task.gold}" for task in tasks)


@needs_data
def test_the_two_halves_of_the_red_team_dialogues_share_no_prompt_and_are_all_of_them():
    learning = {task.prompt for task in load_tasks([Source(source="general", split="harmless")])}
    exam = load_tasks([Source(source="general", split="test")], purpose="exam")
    assert len(exam) == len({task.prompt for task in exam}) == 1114
    assert not learning & {task.prompt for task in exam}
    folded = [{" ".join(prompt.split()).lower() for prompt in half} for half in (learning, [t.prompt for t in exam])]
    assert not folded[0] & folded[1]
    rows = read_rows(public.public_file(public.HARMLESS_FILE))
    assert len({row["chosen"].split("\n\nAssistant:")[0].strip() for _, row in rows}) == len(learning) + len(exam)


@needs_data
def test_the_half_for_evaluation_is_refused_for_learning_however_it_comes(tmp_path):
    with pytest.raises(InputError, match="evaluation set cannot be trained on"):
        load_tasks([Source(source="general", split="test")])
    with pytest.raises(InputError, match="evaluation set cannot be trained on"):
        load_tasks([Source(source="jsonl", path=str(public.public_file(public.HARMLESS_FILE)))])
    copy = tmp_path / "mine.jsonl"
    (first, *_) = load_tasks([Source(source="general", split="test", limit=1)], purpose="exam")
    copy.write_text(json.dumps(task_to_row(first)) + "\n")
    with pytest.raises(InputError, match=r"mine.jsonl: general/harmless-\d+: an evaluation set cannot be trained on"):
        load_tasks([Source(source="jsonl", path=str(copy))])
    assert load_tasks([Source(source="jsonl", path=str(copy))], purpose="exam") == [first]


@needs_data
def test_red_team_prompts_and_labels_come_from_the_half_for_learning():
    prompts = load_tasks([Source(source="general", split="harmless")])
    assert 0.45 * 2312 < len(prompts) < 0.55 * 2312
    firsts = {
        (task.history[0].content if task.history else task.prompt) for task, *_ in public.preferences("hh-harmless")
    }
    assert firsts <= {task.prompt for task in prompts}


def test_the_half_for_learning_does_not_depend_on_case_or_white_space():
    texts = [f"Question {i}" for i in range(1000)]
    assert [public.may_learn(text) for text in texts] == [public.may_learn(f" {text.upper()}\n") for text in texts]
    assert 400 < sum(map(public.may_learn, texts)) < 600
