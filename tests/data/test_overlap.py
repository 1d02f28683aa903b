"""Texts that occur twice, and texts that occur in a benchmark."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from thinkery.core import Message, Task
from thinkery.data.decontaminate import Index
from thinkery.data.deduplicate import Deduplicator
from thinkery.rewards.units import units

STORY = (
    "Nadia sold clips to forty eight of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Nadia sell altogether in April and May?"
)


def public(path: str) -> list[dict[str, Any]]:
    """The rows of a public data file, a reason to skip the test where there is none."""
    root = os.environ.get("THINKERY_DATA")
    if not root:
        pytest.skip("THINKERY_DATA is not set: facts about public data are not checked")
    with gzip.open(Path(root) / path, "rt", encoding="utf-8") as file:
        return json.load(file) if ".json." in path else [json.loads(line) for line in file]


def test_equal_texts_are_duplicates_whatever_their_punctuation() -> None:
    seen = Deduplicator()
    assert seen.duplicate_of("a", "Two, and two!") is None
    assert seen.duplicate_of("b", "two and   TWO") == "a"
    assert seen.duplicate_of("c", "two and three") is None
    assert seen.duplicate_of("d", "?!") is None
    assert seen.duplicate_of("e", "!!") is None


def test_nearly_equal_texts_are_duplicates_only_when_asked() -> None:
    edited = STORY.replace("and May?", "and June?")  # 25 of 27 different 5-grams are shared
    exact, near = Deduplicator(), Deduplicator(near=0.8)
    assert [exact.duplicate_of("a", STORY), exact.duplicate_of("b", edited)] == [None, None]
    assert [near.duplicate_of("a", STORY), near.duplicate_of("b", edited)] == [None, "a"]
    assert (
        near.duplicate_of("c", "Something else entirely, which nobody has asked about clips in April before.") is None
    )
    assert near.duplicate_of("d", "short") is None


def test_ten_shared_words_are_contamination_and_name_the_benchmark() -> None:
    index = Index.of([Task("7", STORY, source="gsm8k")])
    found = index.match("Read this: she sold half as many clips in May. How many, do you think?")
    assert found == "shares 'she sold half as many clips in may how many' with gsm8k/7"
    assert index.match("She sold half as many clips in May. How odd!") is None  # nine in a row


def test_solutions_are_protected_too() -> None:
    solution = "In May she sold 48/2 = 24 clips, so altogether she sold 48+24 = 72 clips."
    index = Index.of([Task("7", "How many?", source="gsm8k", info={"solution": solution})])
    assert index.match(f"Answer: {solution}")
    assert index.match("How many?") == "shares 'how many' with gsm8k/7"


def test_short_texts_match_only_as_a_whole() -> None:
    index = Index.of([Task("1", "What is 17+5?", source="toy")])
    assert index.match("what is 17 + 5") == "shares 'what is 17 5' with toy/1"
    assert index.match("What is 17+5? And what is 3 times that, or six times that?") is None
    assert index.match("What is 17+6?") is None
    assert index.match("") is None


def test_chinese_is_compared_by_character() -> None:
    index = Index.of([Task("1", "小明有十二支铅笔，给了妹妹三支，还剩几支？", source="toy")])
    assert index.match("从前小明有十二支铅笔给了小红") == "shares '小 明 有 十 二 支 铅 笔 给 了' with toy/1"
    assert index.match("小明有十二支钢笔，给了妹妹三支") is None


def test_without_ngrams_only_whole_texts_count() -> None:
    index = Index.of([Task("7", STORY, source="gsm8k")], n=0)
    assert index.match(STORY.upper())
    assert index.match(STORY + " Why?") is None


def test_as_a_whole_a_puzzle_is_contaminated_by_its_own_numbers_only() -> None:
    words = "Find the Greatest Common Divisor (GCD) of these numbers: {}. Give only the GCD as your final answer."
    index = Index.of([Task("gcd/test-0", words.format("12, 18"), source="reasoning-gym")])
    other = words.format("12, 20")
    assert index.match(other) == "shares 'find the greatest common divisor gcd of these numbers 12' with " + (
        "reasoning-gym/gcd/test-0"
    )
    assert index.match(other, whole=True) is None
    assert "of these numbers 12 18 give" in (index.match(words.format("12, 18"), whole=True) or "")


def test_as_a_whole_a_sum_is_another_with_another_sign() -> None:
    index = Index.of([Task("1", "What is 12 + 5?", source="toy")], n=0)
    assert index.match("what is 12+5") == "shares 'what is 12 + 5' with toy/1"
    others = ("12 - 5", "12 * 5", "12 / 5", "12.5", "-12 + 5", "12 + 5!", "(12 + 5)")
    assert not any(index.match(f"What is {other}?") for other in others)
    index = Index.of([Task("1", "A well-known text, isn't it?", source="toy")], n=0)
    assert index.match("“A well known text – isn’t it”")


@pytest.mark.parametrize(
    ("asked", "again", "other"),
    [
        ("What is 12 + 5?", "What is $12 + 5$?", "What is $12 - 5$?"),
        ("What is 12 + 5?", "**What is 12 + 5?**", "**What is 12 * 5?**"),
        ("What is 12 + 5?", "_What_ is `12 + 5`?", "_What_ is `12 ** 5`?"),
        ("What is 12 - 5?", "What is 12 − 5?", "What is 12 5?"),
        ("What is 12 * 5?", "What is 12 × 5?", "What is 12 + 5?"),
        ("What is 12*5?", "* What is **12·5**?", "What is 12**5?"),
        ("Solve x-y = 3", "Solve x - y = 3", "Solve x y = 3"),
        ("Find a_1", "Find *a_1*", "Find a 1"),
    ],
)
def test_as_a_whole_a_question_is_itself_in_any_typography(asked: str, again: str, other: str) -> None:
    index = Index.of([Task("1", asked, source="toy")], n=0)
    assert index.match(again)
    assert index.match(other) is None


def test_vowel_signs_belong_to_the_word() -> None:
    assert units("कि, की café كِتَاب") == ["कि", "की", "café", "كِتَاب"]
    index = Index.of([Task("1", "कि", source="toy")], n=0)
    assert index.match("कि?")
    assert not any(map(index.match, ("की", "का", "के")))


def turns(*said: str, first: str = "user") -> Task:
    """A task of turns that alternate between user and assistant, after one of the system if it is first."""
    roles = [first, *("user", "assistant") * 3] if first == "system" else ["user", "assistant"] * 3
    history = tuple(Message(role, text) for role, text in zip(roles, said[:-1], strict=False))  # type: ignore[arg-type]
    return Task("1", said[-1], source="toy", history=history)


@pytest.mark.parametrize("n", [0, 10])
@pytest.mark.parametrize("question", [STORY, "What is 17 + 5?"])
def test_an_exam_question_in_an_earlier_turn_is_contamination(n: int, question: str) -> None:
    index = Index.of([Task("7", question, source="gsm8k")], n)
    assert index.match_task(turns(question, "22", "And twice as much?"))
    assert index.match_task(turns(question, "Are you sure?", first="system"))
    assert index.match_task(turns("Hello.", "Hi.", question))
    assert index.match_task(turns("Hello.", question, "And twice as much?")) is None  # nobody asks it


@pytest.mark.parametrize("n", [0, 10])
@pytest.mark.parametrize(
    "words", ["Which number is in the text?", "In the text that stands above, which number is it?"]
)
def test_one_question_after_different_texts_is_a_different_task_each_time(n: int, words: str) -> None:
    def about(number: int, then: str = words) -> Task:
        return turns(f"The number is {number}.", then, first="system")

    for exam in ([about(1), about(2)], [about(1), about(2), about(1)]):
        index = Index.of(exam, n)
        assert "shares 'the number is 1 " in (index.match_task(about(1)) or "")
        assert index.match_task(about(3)) is None
        assert index.match_task(about(1, "Is it a small one?")) is None
    if n == 0 or len(words.split()) < n:
        assert Index.of([about(1)], n).match_task(about(3)) is None


@pytest.mark.parametrize("n", [0, 10])
def test_a_question_is_the_same_after_another_system_prompt(n: int) -> None:
    brief = [turns("Be brief.", f"What is {a} + 5?", first="system") for a in (12, 13)]
    index = Index.of(brief, n)
    for task in (turns("Be kind.", "What is 12 + 5?", first="system"), Task("1", "What is 12 + 5?")):
        assert index.match_task(task)
    assert index.match_task(turns("Be brief.", "What is 14 + 5?", first="system")) is None


def test_a_system_prompt_that_all_share_drops_nothing() -> None:
    index = Index.of([turns(STORY, f"What is {a} + 5?", first="system") for a in (12, 13)])
    assert index.match_task(turns(STORY, "What is 14 + 5?", first="system")) is None


def prompt(instruction: str, input: str) -> str:
    """A prompt as AlpacaEval shows it."""
    return f"{instruction}\n\n{input}" if input else instruction


def alpaca_eval(n: int) -> Index:
    rows = public("alpaca_eval2/baseline_gpt4_1106_preview.json.gz")
    return Index.of((Task(str(i), row["instruction"], source="alpaca_eval") for i, row in enumerate(rows)), n)


def test_all_pandalm_instructions_are_alpaca_eval_prompts() -> None:
    whole, ngrams = alpaca_eval(0), alpaca_eval(10)
    asked = {(row["instruction"], row["input"]) for row in public("preference/pandalm_testset_v1.json.gz")}
    assert len(asked) == 170
    for index in (whole, ngrams):
        clean = [pair for pair in asked if not index.match(prompt(*pair))]
        assert clean == [(" ", "Truthfulness")]  # this row has lost the instruction that AlpacaEval 679 has


def test_self_instruct_users_and_open_assistant_roots_are_alpaca_eval_prompts() -> None:
    index = alpaca_eval(10)
    users = public("sft/self_instruct_user_oriented.jsonl.gz")
    assert len(users) == 252
    assert all(index.match(prompt(row["instruction"], row["instances"][0]["input"])) for row in users)
    roots = [row["text"] for row in public("preference/oasst1_en_validation.jsonl.gz") if not row["parent_id"]]
    assert len(roots) == 188
    assert all(index.match(text) for text in roots)


def test_self_instruct_seed_tasks_are_clean_of_alpaca_eval() -> None:
    index = alpaca_eval(10)
    seeds = public("sft/self_instruct_seed_tasks.jsonl.gz")
    assert not any(index.match(prompt(row["instruction"], row["instances"][0]["input"])) for row in seeds)


def test_math_training_problems_are_not_in_math_500() -> None:
    exam = [Task(row["unique_id"], row["problem"], source="math500") for row in public("math/math500_test.jsonl.gz")]
    whole = Index.of(exam, n=0)
    for path in ("math/train_answers.jsonl.gz", "math/train_solutions_4500.jsonl.gz"):
        assert not any(whole.match(row["problem"]) for row in public(path))
    assert all(whole.match(task.prompt) for task in exam)
