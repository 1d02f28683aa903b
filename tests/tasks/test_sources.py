"""Sources: own files with all their faults, public data, and the line between training and exams."""

import gzip
import json
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinkery.core import Task
from thinkery.data.decontaminate import Index, question_of
from thinkery.errors import ConfigError, EnvironmentLacks, InputError
from thinkery.pipeline.artifact import row_to_task, task_to_row
from thinkery.tasks.fields import Fields, infer_fields
from thinkery.tasks.files import read_rows
from thinkery.tasks.public import EXAM_FILES, data_root
from thinkery.tasks.sources import SOURCES, Source, load_tasks

ROOT = data_root()
needs_data = pytest.mark.skipif(ROOT is None, reason="THINKERY_DATA is not set")


def write(path: Path, *rows) -> Source:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(source="jsonl", path=str(path))


def sums(count: int) -> list[dict]:
    return [{"question": f"What is {i} plus {i}?", "answer": str(2 * i)} for i in range(count)]


def test_a_file_of_sums_becomes_math_tasks_named_by_file_and_line(tmp_path):
    tasks = load_tasks([write(tmp_path / "sums.jsonl", *sums(3))])
    assert [(t.id, t.prompt, t.gold, t.kind) for t in tasks] == [
        ("sums/1", "What is 0 plus 0?", "0", "math"),
        ("sums/2", "What is 1 plus 1?", "2", "math"),
        ("sums/3", "What is 2 plus 2?", "4", "math"),
    ]


def test_gzip_and_a_json_list_read_the_same(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(sums(3)))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in sums(3))
    first, second = (
        load_tasks([Source(source="jsonl", path=str(tmp_path / name))]) for name in ("a.json", "b.jsonl.gz")
    )
    assert [t.prompt for t in first] == [t.prompt for t in second]


def test_the_same_id_twice_is_made_unique(tmp_path):
    source = write(tmp_path / "x.jsonl", *({"id": "q", **row} for row in sums(3)))
    assert [task.id for task in load_tasks([source])] == ["x/q", "x/q~2", "x/q~3"]


def test_a_broken_line_is_one_error_with_file_and_line(tmp_path):
    source = write(tmp_path / "x.jsonl", sums(1)[0], '{"question": "cut\n')
    with pytest.raises(InputError, match=r"x\.jsonl:2: not JSON") as error:
        load_tasks([source])
    assert error.value.found == '{"question": "cut'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("[1, 2]\n", r"x\.jsonl:1: not a JSON object"),
        ("7\n", "not a JSON"),
    ],
)
def test_files_without_rows_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_tasks([write(tmp_path / "x.jsonl", text)])


def test_files_that_cannot_be_read_say_why(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "answer": "1"}\n')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"question": "a", "answer": "1"}\n' * 50)[:30])
    for name, message in [
        ("latin.jsonl", "not UTF-8"),
        ("cut.jsonl.gz", "cannot be read"),
        ("gone.jsonl", "no such file"),
    ]:
        with pytest.raises(InputError, match=message):
            load_tasks([Source(source="jsonl", path=str(tmp_path / name))])


def test_tasks_written_as_rows_come_back_as_they_were(tmp_path):
    mixed = [Source(source="world", limit=6), Source(source="world-general", limit=6)]
    tasks = load_tasks(mixed, seed=1)
    assert load_tasks([write(tmp_path / "tasks.jsonl", *map(task_to_row, tasks))]) == tasks


def test_columns_of_parquet_become_plain_values(tmp_path):
    row = {
        "question": "How many on the 2nd?",
        "answer": Decimal("3.00"),
        "price": Decimal("2.5"),
        "when": datetime(2026, 1, 2, 3, 4),
        "facts": {"day": date(2026, 1, 2), "at": time(3, 4), "image": b"\xff", "pages": [b"\xff", b"\x00"]},
        "took": timedelta(seconds=90),
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    [(where, read)] = read_rows(tmp_path / "x.parquet")
    assert where == f"{tmp_path / 'x.parquet'}: row 1"
    assert read == {
        "question": "How many on the 2nd?",
        "answer": 3,
        "price": 2.5,
        "when": "2026-01-02T03:04:00",
        "facts": {"day": "2026-01-02", "at": "03:04:00", "pages": []},
        "took": "0:01:30",
    }
    (task,) = load_tasks([Source(source="jsonl", path=str(tmp_path / "x.parquet"))])
    assert (task.kind, task.gold) == ("math", "3")


def test_half_a_character_is_refused_where_it_stands(tmp_path):
    with pytest.raises(InputError, match=r"x\.jsonl:1: half of a surrogate pair"):
        load_tasks([write(tmp_path / "x.jsonl", '{"question": "a\\ud800", "answer": "1"}\n')])


def test_rows_without_a_question_name_the_fields_there_are(tmp_path):
    with pytest.raises(InputError, match=r'x\.jsonl:1: no "question" \(found the fields frage, antwort\)'):
        load_tasks([write(tmp_path / "x.jsonl", {"frage": "2+2?", "antwort": "4"})])


def test_a_stated_mapping_wins_over_the_guess(tmp_path):
    fields = Fields(question="frage", answer="antwort", kind="=exact", language="=de")
    source = write(tmp_path / "x.jsonl", {"frage": "2+2?", "antwort": "4"}).model_copy(update={"fields": fields})
    (task,) = load_tasks([source])
    assert (task.prompt, task.gold, task.kind, task.language) == ("2+2?", "4", "exact", "de")


def test_a_held_out_share_parts_one_file_and_keeps_duplicates_on_one_side(tmp_path):
    source = write(tmp_path / "x.jsonl", *sums(200), *sums(200)).model_copy(update={"held_out": 0.25})
    train = {t.prompt for t in load_tasks([source])}
    exam = {t.prompt for t in load_tasks([source.model_copy(update={"split": "test"})], purpose="exam")}
    assert not train & exam
    assert len(train | exam) == 200
    assert 30 < len(exam) < 70


def test_a_held_out_share_is_chosen_by_all_turns_and_for_a_single_one_as_ever(tmp_path):
    said = [{"role": "user", "content": "Which number is in the text?"}, {"role": "assistant", "content": "5"}]
    chats = [{"messages": [{"role": "system", "content": f"The number is {n}."}, *said]} for n in range(200)]
    source = write(tmp_path / "x.jsonl", *chats).model_copy(update={"held_out": 0.25})
    assert 30 < len(load_tasks([source.model_copy(update={"split": "test"})], purpose="exam")) < 70
    source = write(tmp_path / "y.jsonl", *sums(20)).model_copy(update={"held_out": 0.25, "split": "test"})
    kept = [task.id for task in load_tasks([source], purpose="exam")]
    assert kept == ["y/1", "y/11", "y/12"]


def test_a_limit_draws_by_the_seed_and_keeps_the_order(tmp_path):
    source = write(tmp_path / "x.jsonl", *sums(50)).model_copy(update={"limit": 10})
    drawn = [int(t.id.removeprefix("x/")) for t in load_tasks([source], seed=1)]
    assert drawn == sorted(drawn)
    assert len(drawn) == 10
    assert drawn != list(range(1, 11))
    assert drawn == [int(t.id.removeprefix("x/")) for t in load_tasks([source], seed=1)]
    assert drawn != [int(t.id.removeprefix("x/")) for t in load_tasks([source], seed=2)]


def test_a_suffix_follows_every_question_and_a_language_fills_the_gap(tmp_path):
    source = write(tmp_path / "x.jsonl", {"question": "1+1=?", "answer": "2"})
    (task,) = load_tasks([source.model_copy(update={"suffix": "Box it.", "language": "fr"})])
    assert (task.prompt, task.language) == ("1+1=?\nBox it.", "fr")


def test_the_world_gives_different_problems_for_training_and_exams():
    train = load_tasks([Source(source="world", limit=40, kind="chain")], seed=3)
    exam = load_tasks([Source(source="world", limit=40, kind="chain", split="test")], seed=3, purpose="exam")
    assert len(train) == len(exam) == 40
    assert {t.kind for t in train} == {"math"}
    assert not {t.prompt for t in train} & {t.prompt for t in exam}
    assert len(load_tasks([Source(source="world-general", limit=9)])) == 9


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "jsonl"])
def test_no_exam_split_of_any_source_can_be_trained_on(source):
    with pytest.raises(InputError, match="an evaluation set cannot be trained on"):
        load_tasks([Source(source=source, split="test", limit=1, path="x")])


def test_an_evaluation_file_cannot_be_trained_on_by_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKERY_DATA", str(tmp_path))
    (tmp_path / "gsm8k").mkdir()
    with gzip.open(tmp_path / "gsm8k/test.jsonl.gz", "wt") as file:
        file.write(json.dumps(sums(1)[0]))
    source = Source(source="jsonl", path=str(tmp_path / "gsm8k" / ".." / "gsm8k" / "test.jsonl.gz"))
    with pytest.raises(InputError, match="an evaluation set cannot be trained on"):
        load_tasks([source])
    assert len(load_tasks([source], purpose="exam")) == 1


def test_absent_public_data_names_file_and_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("THINKERY_DATA", raising=False)
    with pytest.raises(InputError, match=r"gsm8k/train.jsonl.gz.*\n.*set THINKERY_DATA"):
        load_tasks([Source(source="gsm8k")])
    monkeypatch.setenv("THINKERY_DATA", str(tmp_path))
    with pytest.raises(InputError, match="no such file"):
        load_tasks([Source(source="gsm8k")])


def test_unknown_sources_splits_and_missing_counts_are_config_errors():
    with pytest.raises(ConfigError, match=r"no such source of tasks.*found gsm9k"):
        load_tasks([Source(source="gsm9k")])
    with pytest.raises(InputError, match=r"(?s)gsm8k has no such split.*train, test"):
        load_tasks([Source(source="gsm8k", split="dev")])
    with pytest.raises(ConfigError, match="limit"):
        load_tasks([Source(source="world")])
    with pytest.raises(ConfigError, match="the world has no such kind"):
        load_tasks([Source(source="world", kind="maths", limit=3)])


@needs_data
def test_published_sets_have_their_published_sizes_and_golds():
    sets = {
        name: load_tasks([Source(source=name, split=split)], purpose="exam")
        for name, split in [
            ("gsm8k", "test"),
            ("math500", "test"),
            ("aime2024", "test"),
            ("mmlu", "validation"),
            ("math", "train"),
        ]
    }
    assert {name: len(tasks) for name, tasks in sets.items()} == {
        "gsm8k": 1319,
        "math500": 500,
        "aime2024": 30,
        "mmlu": 1531,
        "math": 7474,
    }
    assert sets["gsm8k"][0].gold == "18"
    assert sets["math500"][0].gold == "\\left( 3, \\frac{\\pi}{2} \\right)"
    assert sets["mmlu"][0].prompt.endswith("generated by 18 has order\nA. 4\nB. 8\nC. 12\nD. 6")
    assert {t.gold for t in sets["mmlu"]} == set("ABCD")
    assert sum(t.gold is None for t in sets["math"]) == 2


@needs_data
def test_levels_choose_before_the_limit_draws():
    first = load_tasks([Source(source="math", levels=(1,))])
    assert len(first) == 564
    drawn = load_tasks([Source(source="math", levels=(1, 2), limit=100)])
    assert len(drawn) == 100
    assert {task.info["difficulty"] for task in drawn} == {1, 2}
    exam = load_tasks([Source(source="math500", split="test", levels=(1,))], purpose="exam")
    assert len(exam) == 43


def test_levels_that_no_task_has_are_refused_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)no task is of these levels.*found \[99\].*some of 4, 5, 6, 7"):
        load_tasks([Source(source="world", kind="chain", limit=60, levels=(99,))])
    source = write(tmp_path / "x.jsonl", *sums(3)).model_copy(update={"levels": (1,)})
    with pytest.raises(ConfigError, match="the source has none"):
        load_tasks([source])


@needs_data
def test_worked_solutions_of_math_all_end_in_a_box():
    tasks = load_tasks([Source(source="math", split="solutions")])
    assert len(tasks) == 4500
    assert sum(t.gold is None for t in tasks) == 0
    assert tasks[0].info["difficulty"] == 3


@needs_data
def test_general_prompts_share_no_instruction_with_alpaca_eval():
    assert ROOT is not None
    with gzip.open(ROOT / "alpaca_eval2/baseline_gpt4_1106_preview.json.gz", "rt") as file:
        exam = {" ".join(row["instruction"].split()).lower() for row in json.load(file)}
    prompts = {" ".join(t.prompt.split()).lower() for t in load_tasks([Source(source="general")])}
    assert len(prompts) > 2500
    assert not prompts & exam


@needs_data
def test_the_files_of_math_are_read_as_mathematics_whatever_the_subject():
    assert ROOT is not None
    for name, sort, count in (("math500_test", "subject", 7), ("train_answers", "type", 7)):
        rows = [row for _, row in read_rows(ROOT / f"math/{name}.jsonl.gz")]
        sorts = {row[sort] for row in rows}
        assert len(sorts) == count
        for one in sorts:
            assert infer_fields([row for row in rows if row[sort] == one][:200]).kind == "=math"


@needs_data
def test_every_evaluation_file_of_the_public_data_is_listed_as_it_is_named():
    assert ROOT is not None
    assert [name for name in EXAM_FILES if not (ROOT / name).is_file()] == []


def test_a_hub_set_that_cannot_be_had_says_what_to_do_instead(monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"(?s)the hub did not give it.*use source = jsonl"):
        load_tasks([Source(source="hub", path="nobody/no-such-set")])


def test_reasoning_gym_draws_other_puzzles_for_the_exam():
    pytest.importorskip("reasoning_gym")
    train = load_tasks([Source(source="reasoning-gym", path="chain_sum", limit=5)])
    exam = load_tasks([Source(source="reasoning-gym", path="chain_sum", limit=5, split="test")], purpose="exam")
    assert [t.kind for t in train] == ["environment"] * 5
    assert not {t.prompt for t in train} & {t.prompt for t in exam}


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EnvironmentLacks, match="pip install datasets"):
        load_tasks([Source(source="hub", path="openai/gsm8k")])


def test_what_is_put_after_every_question_is_no_part_of_it(tmp_path):
    ask = "Please reason step by step, and put your final answer within \\boxed{}."

    def tasks(question: str) -> list[Task]:
        (tmp_path / "q.jsonl").write_text(json.dumps({"question": question, "answer": "4"}) + "\n")
        return load_tasks([Source(source="jsonl", path=str(tmp_path / "q.jsonl"), suffix=ask)])

    [same], [other] = tasks("Simplify 12 over 8."), tasks("How many apples are on the table?")
    index = Index.of([same])
    assert index.match("Simplify 12 over 8.")
    assert same.prompt == f"Simplify 12 over 8.\n{ask}"
    assert index.match(question_of(same))
    assert index.match(question_of(other)) is None
    assert row_to_task({"id": "1", "prompt": "?", "info": None, "history": None}).info == {}


def test_damaged_files_are_input_errors_and_marks_of_order_are_not_read(tmp_path):
    line = b'\xef\xbb\xbf{"question": "q", "answer": "5"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line))
    assert len(list(read_rows(tmp_path / "a.jsonl.gz"))) == 1
    torn = bytearray(gzip.compress(line * 1000))
    torn[40] ^= 0xFF
    (tmp_path / "torn.jsonl.gz").write_bytes(torn)
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "]" * 100_000)
    for name in ("torn.jsonl.gz", "deep.jsonl"):
        with pytest.raises(InputError):
            list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["world", "jsonl", "reasoning-gym"])
@pytest.mark.parametrize("purpose", ["train", "exam"])
def test_a_word_that_names_no_part_is_refused(tmp_path, name, purpose):
    path = write(tmp_path / "x.jsonl", *sums(9)).path
    source = Source(source=name, path=path if name == "jsonl" else "products", split="held_out", limit=5, held_out=0.5)
    with pytest.raises(ConfigError, match=r"no such split \(found held_out\)\s+try: split = one of train, test"):
        load_tasks([source], purpose=purpose)
