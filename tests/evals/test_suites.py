"""The public benchmarks: the protocol, and the questions as they are put."""

import argparse
import base64
import csv
import gzip
import json
import os
import pickle
import shutil
import zlib

import pytest

from thinkery.cli import eval as command
from thinkery.core import Completion, Sampling
from thinkery.errors import InputError, UsageError
from thinkery.evals.suites import PROTOCOL, SUITES, rows_of
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.code_tests import code_tests
from thinkery.tasks.public import data_root, public_file

needs_data = pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set")


def test_the_protocol_is_the_papers():
    wanted = {"aime2024": 64, "gpqa": 64, "math500": 16, "codeforces": 16, "livecodebench": 8}
    assert {name: SUITES[name].samples for name in wanted} == wanted


@pytest.fixture
def gpqa(tmp_path):
    """A table as GPQA publishes it."""
    path = tmp_path / "gpqa_diamond.csv"
    columns = ["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3))]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"id{i}", f"Question,\n{i}?", "yes\n", "no 1", "no 2", "no 3"] for i in range(40))
    return path


def test_gpqa_comes_from_the_users_file_with_options_shuffled_once_and_for_all(gpqa):
    benchmark = SUITES["gpqa"].benchmark("gpqa", seed=0, file=gpqa)
    assert (len(benchmark.tasks), benchmark.samples) == (40, 64)
    assert benchmark.sampling == Sampling(temperature=0.6, top_p=0.95, max_tokens=32768) == PROTOCOL
    assert {task.gold for task in benchmark.tasks} == set("ABCD")
    assert all(f"\n{task.gold}. yes" in task.prompt for task in benchmark.tasks)
    again = SUITES["gpqa"].benchmark("gpqa", seed=1, file=gpqa)
    assert again.tasks == benchmark.tasks
    first = benchmark.tasks[0]
    assert accuracy(first, Completion("", answer=f"Because …\nAnswer: {first.gold}")).value == 1.0


def test_a_limit_draws_by_the_seed_in_the_order_of_the_set(gpqa):
    drawn = [
        [task.id for task in SUITES["gpqa"].benchmark("gpqa", seed=seed, file=gpqa, limit=5, samples=2).tasks]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0], key=lambda id: int(id.split("/")[1]))


def test_gpqa_without_a_file_or_with_another_says_what_is_wanted(tmp_path):
    with pytest.raises(UsageError, match="your own copy"):
        SUITES["gpqa"].benchmark("gpqa", seed=0)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column 'Question'"):
        SUITES["gpqa"].benchmark("gpqa", seed=0, file=tmp_path / "other.csv")


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "ending"),
    [
        ("aime2024", 30, "within \\boxed{}."),
        ("math500", 500, "within \\boxed{}."),
        ("gsm8k", 1319, "within \\boxed{}."),
        ("mmlu", 14042, ""),
        ("ifeval", 541, ""),
        ("humaneval", 164, "```"),
        ("mbpp", 500, "in one fenced block."),
        ("codecontests", 165, "in one fenced block."),
        ("frames", 824, ""),
        ("alpaca-eval", 805, ""),
        ("arena-hard", 500, ""),
    ],
)
def test_a_public_set_is_asked_whole(name, count, ending):
    tasks = SUITES[name].benchmark(name, seed=0).tasks
    assert len(tasks) == len({task.id for task in tasks}) == count
    assert all(task.prompt.endswith(ending) for task in tasks)


@needs_data
def test_an_ifeval_answer_is_judged_by_its_demands():
    benchmark = SUITES["ifeval"].benchmark("ifeval", seed=0)
    task = next(t for t in benchmark.tasks if t.info["instruction_id_list"] == ["punctuation:no_comma"])
    [(good, _), (bad, _)] = benchmark.rubric.judge(
        [(task, Completion("", answer="Yes.")), (task, Completion("", answer="Yes, sir."))]
    )
    assert (good["accuracy"].value, bad["accuracy"].value) == (1.0, 0.0)


def test_the_command_line_asks_for_suites_by_name(gpqa):
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    asked = parser.parse_args(["tiny", "--suite", "gpqa", "--file", str(gpqa), "--limit", "3", "--max-tokens", "64"])
    (benchmark,) = [one.benchmark() for one in command.chosen(asked)]
    assert (len(benchmark.tasks), benchmark.samples, benchmark.sampling.max_tokens) == (3, 64, 64)
    unlimited = parser.parse_args(["tiny", "--suite", "gpqa", "--file", str(gpqa)])
    assert command.chosen(unlimited)[0].benchmark().sampling == PROTOCOL
    with pytest.raises(UsageError, match="nothing to measure"):
        command.chosen(parser.parse_args(["tiny"]))
    with pytest.raises(UsageError, match="gsm8k"):
        command.chosen(parser.parse_args(["tiny", "--suite", "gsm9k"]))[0].benchmark()


def packed(tests):
    """Private tests as LiveCodeBench releases them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def problem(**fields):
    """A problem of LiveCodeBench that calls a method."""
    call = {"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}
    return {
        "question_id": "1_a",
        "question_content": "Add up.",
        "starter_code": "class Solution:\n    def add(self, xs, y):\n        ",
        "public_test_cases": json.dumps([call]),
        "private_test_cases": packed([call | {"input": "[]\n0", "output": "0"}]),
        "metadata": json.dumps({"func_name": "add"}),
        **fields,
    }


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_livecodebench_is_read_from_a_release_and_its_private_tests_count(tmp_path):
    file = tmp_path / "test.jsonl"
    stdin = [{"input": "2\n", "output": "4\n", "testtype": "stdin"}]
    rows = [
        problem(),
        problem(question_id="2_b", starter_code="", public_test_cases=json.dumps(stdin), private_test_cases="[]"),
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = SUITES["livecodebench"].benchmark("livecodebench", seed=0, file=file)
    method, program = benchmark.tasks
    assert benchmark.samples == 8
    assert [len(task.info["tests"]) for task in benchmark.tasks] == [2, 1]
    right = "class Solution:\n    def add(self, xs, y):\n        return sum(xs) + y"
    answers = [(method, right), (method, right.replace("sum(xs) + y", "6")), (program, "print(int(input()) ** 2)")]
    judged = benchmark.rubric.judge(
        [(task, Completion("", answer=f"```python\n{code}\n```")) for task, code in answers]
    )
    assert [scores["accuracy"].value for scores, _ in judged] == [1.0, 0.0, 1.0]


def test_private_tests_cannot_run_anything(tmp_path):
    hidden = base64.b64encode(zlib.compress(pickle.dumps(os.getcwd))).decode()
    (tmp_path / "test.jsonl").write_text(json.dumps(problem(private_test_cases=hidden)) + "\n")
    with pytest.raises(InputError, match=r"the pickle names posix\.getcwd"):
        SUITES["livecodebench"].benchmark("livecodebench", seed=0, file=tmp_path / "test.jsonl")


@needs_data
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_canonical_solutions_pass_and_a_missing_return_does_not():
    tasks = SUITES["humaneval"].benchmark("humaneval", seed=0).tasks
    with gzip.open(public_file("humaneval/HumanEval.jsonl.gz"), "rt") as file:
        solutions = [json.loads(line)["canonical_solution"] for line in file]
    answers = [Completion("", answer=f"```python\n{code}```") for code in solutions]
    answers += [Completion("", answer="```python\n    return None\n```")] * 20
    scores = code_tests.batch(list(zip([*tasks, *tasks[:20]], answers, strict=True)))
    assert [score.value for score in scores] == [1.0] * 164 + [0.0] * 20


def test_a_suite_is_read_from_ones_own_file_too(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"question": "2 + 2?", "answer": "It is 4.\\n#### 4"}\n')
    [task] = SUITES["gsm8k"].benchmark("gsm8k", seed=0, file=tmp_path / "mine.jsonl").tasks
    assert (task.gold, task.prompt) == (
        "4",
        "2 + 2?\nPlease reason step by step, and put your final answer within \\boxed{}.",
    )


def test_without_public_data_the_rows_come_from_the_hub(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.delenv("THINKERY_DATA", raising=False)
    (tmp_path / "test.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n{"question": "3?", "answer": "3"}\n')
    rows = list(rows_of(None, "gsm8k/test.jsonl.gz", (str(tmp_path), "", "test")))
    assert [row for _, row in rows] == [{"question": "2 + 2?", "answer": "4"}, {"question": "3?", "answer": "3"}]
    with pytest.raises(InputError, match="public data is needed"):
        rows_of(None, "gsm8k/test.jsonl.gz")


def test_the_hub_s_copy_of_mmlu_has_its_options_in_a_list(tmp_path):
    row = {"question": "Which?", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 2}
    (tmp_path / "mmlu.jsonl").write_text(json.dumps(row) + "\n")
    [task] = SUITES["mmlu"].benchmark("mmlu", seed=0, file=tmp_path / "mmlu.jsonl").tasks
    assert task.gold == "C"
    assert task.prompt.endswith("C. c\nD. d")


def test_language_consistency_is_asked_in_two_languages_of_the_world():
    benchmark = SUITES["language"].benchmark("language", seed=0, limit=40)
    assert {task.language for task in benchmark.tasks} == {"en", "zh"}
    task = next(task for task in benchmark.tasks if task.language == "en")
    [(scores, _)] = benchmark.rubric.judge([(task, Completion("", thought="我 think 这 是", answer="", closed=True))])
    assert scores["language"].value == pytest.approx(0.25)
