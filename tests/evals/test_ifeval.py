"""IFEval's checks on responses whose verdict anyone can see."""

import gzip
import json

import pytest

from thinkery.core import Completion, Task
from thinkery.evals.ifeval import Followed, followed_share, follows_all, judge
from thinkery.tasks.public import data_root, public_file

pytest.importorskip("if_verifiable", reason="the extra `bench` is not installed")


def one(response, demand, prompt="Write.", **kwargs):
    found = judge(prompt, response, [demand], [kwargs])
    return found.strict[0], found.loose[0]


@pytest.mark.parametrize(
    ("response", "demand", "kwargs", "followed"),
    [
        ("no commas here", "punctuation:no_comma", {}, True),
        ("one, two", "punctuation:no_comma", {}, False),
        ('{"a": 1}', "detectable_format:json_format", {}, True),
        ("```json\n[1]\n```", "detectable_format:json_format", {}, True),
        ("a b c", "length_constraints:number_words", {"relation": "at least", "num_words": 3}, True),
        ("a b c", "length_constraints:number_words", {"relation": "less than", "num_words": 3}, False),
        ("All in lower case, and in English.", "change_case:english_lowercase", {}, False),
        ("THIS RESPONSE IS WRITTEN IN ENGLISH CAPITALS", "change_case:english_capital", {}, True),
        ("<<A title>>\nText", "detectable_format:title", {}, True),
        ("Bonjour à tous, je suis très heureux.", "language:response_language", {"language": "fr"}, True),
        ("", "punctuation:no_comma", {}, False),
    ],
)
def test_a_demand_is_followed_or_not(response, demand, kwargs, followed):
    assert one(response, demand, **kwargs)[0] is followed


def test_sentences_are_cut_by_the_trained_model_that_knows_abbreviations():
    text = "Dr. Smith met Mr. Jones at 5 p.m. on Monday. They talked."
    assert one(text, "length_constraints:number_sentences", relation="less than", num_sentences=3) == (True, True)
    assert one(text, "length_constraints:number_sentences", relation="at least", num_sentences=3) == (False, False)


def test_capital_words_are_counted_after_tokenizing():
    text = "I said STOP! It's the F.B.I. calling."  # I, STOP, F.B.I
    assert one(text, "change_case:capital_word_frequency", capital_relation="at least", capital_frequency=3)[0]
    assert not one(text, "change_case:capital_word_frequency", capital_relation="at least", capital_frequency=4)[0]


def test_loosely_a_line_around_the_answer_and_asterisks_do_not_count():
    assert one("Sure, here it is:\nno commas", "punctuation:no_comma") == (False, True)
    assert one('*"quoted"*', "startend:quotation") == (False, True)
    assert one("a, b\nc, d\ne, f", "punctuation:no_comma") == (False, False)


def test_the_prompt_to_repeat_is_the_one_given():
    prompt = "Say hello."
    assert one("Say hello. Hello!", "combination:repeat_prompt", prompt, prompt_to_repeat="Say hello.") == (True, True)


def test_settings_that_are_null_are_not_set():
    found = judge("P", "x", ["punctuation:no_comma"], [{"num_words": None, "relation": None}])
    assert found == Followed((True,), (True,))


@pytest.mark.parametrize(
    ("demands", "settings", "problem"),
    [
        (["no:such"], [{}], "no such instruction"),
        (["punctuation:no_comma"], [], "1 instructions, but 0 kwargs"),
        (["punctuation:no_comma"], [{"words": 3}], "unexpected keyword"),
        (["length_constraints:number_words"], [{"num_words": 3}], "needs relation"),
    ],
)
def test_demands_that_cannot_be_checked_are_refused_not_guessed(demands, settings, problem):
    with pytest.raises(ValueError, match=problem):
        judge("P", "x", demands, settings)


def test_a_keyword_that_is_no_regular_expression_is_said():
    with pytest.raises(ValueError, match="keywords:existence: a keyword is no regular expression"):
        judge("P", "a word", ["keywords:existence"], [{"keywords": ["(a"]}])


def test_as_a_reward_all_or_a_share_of_the_demands_count():
    info = {"instruction_id_list": ["punctuation:no_comma", "detectable_format:title"], "kwargs": [{}, {}]}
    task, said = Task("q", "P", info=info), Completion("", answer="no comma and no title")
    assert (follows_all(task, said).value, followed_share(task, said).value) == (0.0, 0.5)
    assert "detectable_format:title" in follows_all(task, said).reason


@pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set")
def test_every_published_prompt_can_be_judged():
    with gzip.open(public_file("ifeval/input_data.jsonl.gz"), "rt") as file:
        rows = [json.loads(line) for line in file]
    found = [judge(row["prompt"], "Yes.", row["instruction_id_list"], row["kwargs"]) for row in rows]
    assert len(found) == 541
    assert sum(len(one.strict) for one in found) == 834
    assert all(loose or not strict for one in found for strict, loose in zip(one.strict, one.loose, strict=True))


def test_json_that_is_nested_without_end_is_not_followed():
    assert judge("p", "[" * 100_000, ["detectable_format:json_format"], [{}]).strict == (False,)
