"""Rows of many shapes become the same kind of task."""

import pytest

from thinkery.core import Message
from thinkery.errors import InputError
from thinkery.tasks.fields import Fields, final_value, infer_fields, last_boxed, lookup, to_task


def guess(*rows):
    fields = infer_fields(rows)
    return [to_task(row, fields, id=str(i), where=f"rows:{i}") for i, row in enumerate(rows)]


def test_a_worked_answer_ending_in_hashes_is_math_with_the_number_as_gold():
    (task,) = guess({"question": "What is the sum of 700 and 500?", "answer": "700+500=1200\n#### 1,200"})
    assert (task.kind, task.gold, task.language) == ("math", "1200", "en")


def test_a_solution_with_nested_braces_gives_the_inside_of_its_last_box():
    (task,) = guess({"prompt": "Halve 3.", "solution": "First \\boxed{3}, then \\boxed{\\frac{3}{2}}."})
    assert (task.kind, task.gold) == ("math", "\\frac{3}{2}")


def test_nested_rows_with_a_chat_as_prompt_are_found_by_dotted_paths():
    (task,) = guess(
        {
            "data": {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]},
            "reward_model": {"ground_truth": 4},
            "uid": "a7",
        }
    )
    assert task.prompt == "2+2?"
    assert task.history == (Message("system", "Be brief."),)
    assert (task.kind, task.gold) == ("math", "4")


def test_alpaca_rows_join_instruction_and_input_and_keep_the_output_as_reference():
    long = "A long and winding answer that nobody would match letter by letter."
    task, plain = guess(
        {"instruction": "Translate.", "input": "Bonjour", "output": long},
        {"instruction": "Say hello.", "input": "", "output": long},
    )
    assert (task.prompt, task.kind, task.gold) == ("Translate.\n\nBonjour", "general", long)
    assert plain.prompt == "Say hello."


def test_a_chat_gives_the_last_question_its_history_and_the_answer_after_it():
    turns = [("human", "Hi"), ("gpt", "Hello"), ("human", "Who are you?"), ("gpt", "I am a model.\nA small one.")]
    (task,) = guess({"conversations": [{"from": who, "value": text} for who, text in turns]})
    assert task.prompt == "Who are you?"
    assert task.history == (Message("user", "Hi"), Message("assistant", "Hello"))
    assert task.gold == "I am a model.\nA small one."


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which is red?", "choices": ["sky", "blood", "snow"], "answer": 1},
        {"question": "Which is red?", "choices": ["sky", "blood", "snow"], "answer": "B"},
        {"question": "Which is red?", "options": {"A": "sky", "B": "blood", "C": "snow"}, "answer": "blood"},
        {"question": "Which is red?", "A": "sky", "B": "blood", "C": "snow", "answer": "B"},
        {"question": "Which is red?", "choices": ["sky", "blood", "snow"], "answer": "(B)"},
        {"question": "Which is red?", "choices": ["sky", "blood", "snow"], "answer": "b"},
        {"question": "Which is red?", "choices": ["sky", "blood", "snow"], "answer": 1.0},
        {
            "question": "Which is red?",
            "options": [{"key": "1", "value": "sky"}, {"key": "2", "value": "blood"}, {"key": "3", "value": "snow"}],
            "answer": 2.0,
        },
        {
            "question": "Which is red?",
            "options": [{"label": "A", "text": "sky"}, {"label": "B", "text": "blood"}, {"content": "snow"}],
            "answer": "B",
        },
        {
            "question": "Which is red?",
            "choices": {"text": ["sky", "blood", "snow"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
    ],
)
def test_every_way_to_write_multiple_choice_becomes_lettered_options_and_a_letter(row):
    (task,) = guess(row)
    assert task.prompt == "Which is red?\nA. sky\nB. blood\nC. snow"
    assert (task.kind, task.gold, task.info["choices"]) == ("choice", "B", ["sky", "blood", "snow"])


def test_short_words_are_exact_and_a_stated_kind_and_language_win():
    (task,) = guess({"question": "Capital of France?", "answer": "Paris"})
    assert (task.kind, task.gold) == ("exact", "Paris")
    (stated,) = guess({"question": "法国的首都？", "answer": "Paris", "kind": "general", "lang": "zh-CN"})
    assert (stated.kind, stated.language) == ("general", "zh-CN")


def test_han_characters_mean_chinese_kana_mean_japanese_and_bare_symbols_mean_nothing():
    assert infer_fields([{"question": "结果是多少？", "answer": "3"}]).language == "=zh"
    assert infer_fields([{"question": "りんごは何個ですか", "answer": "3"}]).language == "=ja"
    assert infer_fields([{"question": "1+2=?", "answer": "3"}]).language == ""


def test_nulls_among_the_answers_do_not_hide_the_answer_field():
    rows = [{"question": f"{i}+1=?", "answer": str(i + 1) if i < 2 else None} for i in range(9)]
    assert infer_fields(rows).answer == "answer"


def test_a_missing_answer_names_place_field_and_remedy():
    fields = Fields(question="question", answer="answer", kind="=math")
    with pytest.raises(InputError, match=r'gsm8k.jsonl:812: no "answer" \(found the fields question, note\)') as error:
        to_task({"question": "2+2?", "note": "x"}, fields, id="1", where="gsm8k.jsonl:812")
    assert 'drop the row or set kind = "general"' in str(error.value)


def test_an_index_past_the_options_says_how_options_are_counted():
    with pytest.raises(InputError, match=r"none of the 2 choices.*found 2"):
        guess({"question": "Which?", "choices": ["x", "y"], "answer": 2})


def test_a_box_that_never_closes_is_no_answer():
    assert last_boxed("\\boxed{3} so \\boxed{4") is None
    assert final_value("nothing here") is None


@pytest.mark.parametrize(
    ("solution", "value"),
    [("#### 3,5", "3,5"), ("#### (3, 5)", "(3, 5)"), ("#### $1,234", "$1234"), ("#### -1,234,567.5", "-1234567.5")],
)
def test_commas_are_left_out_between_thousands_alone(solution, value):
    assert final_value(solution) == value


@pytest.mark.parametrize(("options", "answer", "gold"), [("2468", "2", "A"), ("abc", "2", "C"), ("2468", 2, "C")])
def test_an_answer_that_is_one_of_the_options_is_that_one(options, answer, gold):
    row = {"q": "2+0?", "choices": list(options), "answer": answer}
    fields = Fields(question="q", choices=("choices",), answer="answer", kind="=choice")
    assert to_task(row, fields, id="1", where="x").gold == gold


def test_more_options_than_letters_are_refused():
    row = {"q": "?", "choices": [f"o{n}" for n in range(27)], "answer": "o3"}
    fields = Fields(question="q", choices=("choices",), answer="answer", kind="=choice")
    with pytest.raises(InputError, match="27 choices"):
        to_task(row, fields, id="1", where="x")


def test_a_turn_may_be_a_list_of_parts():
    def turn(role, text):
        return {"role": role, "content": [{"type": "text", "text": text}]}

    row = {"messages": [turn("user", "2+3?"), turn("assistant", "5")]}
    task = to_task(row, infer_fields([row]), id="1", where="x")
    assert (task.prompt, task.gold) == ("2+3?", "5")


def kind_of(question: str, answers: list) -> str:
    return infer_fields([{"question": f"{question} {n}?", "answer": answer} for n, answer in enumerate(answers)]).kind


def test_formulas_as_answers_are_mathematics() -> None:
    formulas = ["x^2+7x+10", "(3, 5]", "6 - 5i", "x=5", "n/2", "y = 2x + 3", "(a+5)(b+2)", ".35", "-7", "x+1", "2/3"]
    assert kind_of("Work it out:", formulas) == "=math"
    bare = ["40_9", "2k", "3, 5, 7", "1:4", "1+2i", "52_8", "n", "C"]  # the last two say nothing
    assert kind_of("What is $x$ in", bare) == "=math"
    assert kind_of("What is \\frac{1}{x} in", bare) == "=math"
    assert kind_of("What is x in", bare) == "=exact"


@pytest.mark.parametrize(
    "answers",
    [
        *(["Paris", "Rome", "no"], ["yes", "no", "yes"], ["A1", "B2", "C1"], ["B-12", "F-16", "X-1"]),
        *(["2024-01-15", "1999-12-31"], ["12/05/2023", "01/02/1999"], ["15.01.2024", "1.2.2003"], ["10:30", "09:15"]),
        *(["5 km", "12 kg"], ["5km", "30 m/s"], ["10am", "3pm"], ["1-0", "2-2"], ["1914-1918", "10-12", "5 - 9"]),
        *(["555-1234", "+1-555-1234", "(555) 123-4567"], ["A+", "B-", "+"], ["so-so", "no-go"], ["co2", "h2o"]),
        *(["3, 1, 2", "2, 3, 1"], ["v1.2", "v2.0"], ["#12", "#7"], ["a, b", "c, d"], ['["a", 1]', "['b', 2]"]),
    ],
)
def test_words_labels_dates_and_units_are_not_mathematics(answers: list[str]) -> None:
    assert kind_of("Which one is it,", answers) == "=exact"


@pytest.mark.parametrize("answers", [["2024-01-15", "12/05/2023"], ["5 km", "12 kg"], ["5km", "10am"], ["Paris", "no"]])
def test_nor_are_they_after_a_question_with_formulas(answers: list[str]) -> None:
    assert kind_of("Given $x = 3$, which one is it,", answers) == "=exact"


def test_prices_in_a_question_are_no_formulas() -> None:
    assert kind_of("Tom has $5 and Ann has $7; what is the ratio,", ["1:2", "2:3"]) == "=exact"


@pytest.mark.parametrize("names", [("instruction", "context"), ("question", "passage"), ("prompt", "input")])
def test_a_passage_beside_the_question_is_asked_with_it(names: tuple[str, str]) -> None:
    question, context = names
    task, bare = guess(
        {question: "Who is it about?", context: "Ada wrote it.", "response": "Ada"},
        {question: "Who wrote Emma?", context: "", "response": "Austen"},
    )
    assert (task.prompt, task.gold) == ("Who is it about?\n\nAda wrote it.", "Ada")
    assert bare.prompt == "Who wrote Emma?"


def test_a_passage_that_the_question_repeats_or_that_is_elsewhere_is_not_asked_twice() -> None:
    row = {"prompt": "Translate: Bonjour", "input": "Bonjour", "output": "Hello"}
    assert infer_fields([row]).context == ""
    assert infer_fields([{"question": "2+2?", "answer": "4", "meta": {"context": "easy"}}]).context == ""
    assert infer_fields([{"question": "2+2?", "answer": "4", "context": ["a", "b"]}]).context == ""


def test_an_option_without_a_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"rows:0: a choice without a text \(found label, image\)"):
        guess(
            {"question": "Which?", "options": [{"label": "A", "image": 1}, {"label": "B", "image": 2}], "answer": "A"}
        )


def test_a_turn_of_a_tool_is_named() -> None:
    said = [{"role": role, "content": role} for role in ("user", "tool", "assistant")]
    with pytest.raises(InputError, match=r"x:1: unknown role \(found tool\)"):
        to_task({"messages": said}, Fields(messages="messages"), id="1", where="x:1")


def test_not_a_number_is_a_missing_value() -> None:
    row = {"question": "0/0=?", "context": float("nan"), "answer": float("nan")}
    assert lookup(row, "answer") is None
    fields = Fields(question="question", context="context", answer="answer", kind="=general")
    assert (to_task(row, fields, id="1", where="x").prompt, to_task(row, fields, id="1", where="x").gold) == (
        "0/0=?",
        None,
    )
    with pytest.raises(InputError, match='no "answer"'):
        to_task(row, fields.model_copy(update={"kind": "=math"}), id="1", where="x")
