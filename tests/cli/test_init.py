"""From an empty folder with one's own data and reward to a recipe that runs."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinkery.cli import recipe

REWARD = """
def score(task, completion):
    return float(completion.answer.strip() == task.gold)

def length(task, completion):
    return min(len(completion.text), 40) / 40

def broken(task, completion):
    return 1 / 0

def stingy(task, completion):
    return 0.0
"""


def sums(count: int) -> list[tuple[str, str]]:
    rng = random.Random(0)
    pairs = [(rng.randrange(50), rng.randrange(50)) for _ in range(count)]
    return [(f"What is {a} + {b}?", str(a + b)) for a, b in pairs]


SHAPES: dict[str, Any] = {
    "plain": lambda q, a: {"question": q, "answer": a},
    "chat": lambda q, a: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]},
    "nested": lambda q, a: {"uid": q, "data": {"instruction": q, "input": ""}, "final_answer": f"so #### {a}"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a reward, as the place where the user works."""
    (tmp_path / "my.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_data(path: Path, shape: str = "plain", count: int = 40) -> None:
    path.write_text("".join(json.dumps(SHAPES[shape](q, a)) + "\n" for q, a in sums(count)))


@pytest.mark.parametrize("shape", SHAPES)
def test_data_of_any_shape_becomes_a_recipe_that_loads_and_wires(thinkery, folder, tiny_qwen, shape: str) -> None:
    write_data(folder / "my.jsonl", shape)
    code, out, _ = thinkery("init", "--data", "my.jsonl", "--reward", "my.py:score", "--model", tiny_qwen)
    assert code == 0
    assert "an empty answer earns 0 on average" in out
    assert "a right answer earns 1 on average of 16, 0 of them nothing" in out
    made = recipe.open_recipe(["my.toml"], environ={})
    assert list(made.graph()) == ["base", "exam", "problems", "trained", "eval-base", "eval-trained", "report"]
    assert made.loaded.config.train.grpo.max_tokens == ((0, 512),)
    assert made.loaded.config.train.grpo.eval_every == 20
    assert thinkery("config", "validate", "my.toml")[0] == 0


def test_the_recipe_runs_from_an_empty_folder_to_a_report(thinkery, folder: Path, tiny_qwen: Path) -> None:
    write_data(folder / "my.jsonl")
    assert thinkery("init", "--data", "my.jsonl", "--reward", "my.py:length", "--model", tiny_qwen)[0] == 0
    small = ("train.grpo.updates=2", "train.grpo.group_size=4", "train.grpo.questions_per_update=2")
    small += ("train.grpo.max_tokens=[[0, 96]]", "evaluate.sampling.max_tokens=24", "evaluate.samples=2")
    code, out, err = thinkery("run", "my.toml", *small, "--dir", "runs/mine")
    assert code == 0, err
    assert "step 2/2" in err
    table, _, rest = out.partition("\nrun ")
    assert "eval-trained" not in table
    assert "alarm in eval-trained: truncated" in rest, "24 tokens are few for a model that has not learnt to stop"
    assert "thinkery chat runs/mine" in out

    code, out, _ = thinkery("show", "--json")
    steps = json.loads(out)["steps"]
    assert {step["status"] for step in steps.values()} == {"done"}
    code, out, _ = thinkery("show", "runs/mine:trained")
    assert code == 0
    assert "thinkery.stages.own.practise" in out
    code, out, _ = thinkery("report", "--json")
    assert set(json.loads(out)["stages"]) == {"base", "trained"}
    assert thinkery("report")[0] == 0
    assert "<!doctype html>" in (folder / "runs/mine/report.html").read_text()
    assert thinkery("generate", "runs/mine:trained", "hello", "--max-tokens", 4)[0] == 0
    assert thinkery("data", "verify", "runs/mine")[0] == 0

    code, out, _ = thinkery("run", "my.toml", *small, "--dir", "runs/mine", "--dry-run", "--json")
    assert {one["action"] for one in json.loads(out)} == {"done"}
    code, out, _ = thinkery("run", "my.toml", *small, "train.grpo.policy.lr=1e-4", "--dir", "runs/mine", "--dry-run")
    assert "changed: grpo.policy.lr" in out
    weights = next(Path("runs/mine/steps").glob("trained-*/model/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, _, err = thinkery("data", "verify", "runs/mine")
    assert code == 4
    assert "model.safetensors" in err


def test_a_chat_model_is_asked_by_its_own_template_and_a_base_model_by_the_paper_s(
    thinkery, folder: Path, tiny_qwen: Path
) -> None:
    write_data(folder / "my.jsonl")
    bare = folder / "bare"
    shutil.copytree(tiny_qwen, bare)
    (bare / "chat_template.jinja").unlink()
    for model, template, form in ((tiny_qwen, "", (True, 0.0)), (bare, "r1-zero", (False, 0.2))):
        assert thinkery("init", "--data", "my.jsonl", "--model", model, "--out", f"for-{model.name}")[0] == 0
        made = recipe.open_recipe([f"for-{model.name}/my.toml"], environ={}).loaded.config
        assert (made.train.template, (made.verdict.bare, made.verdict.format_weight)) == (template, form)


def test_a_gguf_file_is_asked_by_the_template_in_it(thinkery, folder: Path) -> None:
    write_data(folder / "my.jsonl")
    assert thinkery("init", "--data", "my.jsonl", "--model", "smollm2")[0] == 0
    assert recipe.open_recipe(["my.toml"], environ={}).loaded.config.train.template == ""


def test_data_in_parquet_is_read(thinkery, folder: Path, tiny_qwen: Path) -> None:
    rows = [SHAPES["plain"](q, a) for q, a in sums(40)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "my.parquet")
    code, out, _ = thinkery("init", "--data", "my.parquet", "--reward", "my.py:score", "--model", tiny_qwen)
    assert code == 0
    assert "question = question, answer = answer" in out


def test_an_edited_reward_is_another_setting(folder: Path, tiny_qwen: Path, thinkery) -> None:
    write_data(folder / "my.jsonl")
    assert thinkery("init", "--data", "my.jsonl", "--reward", "my.py:score", "--model", tiny_qwen)[0] == 0
    before = recipe.open_recipe(["my.toml"], environ={}).graph()
    (folder / "my.py").write_text(REWARD + "\n# looked at again\n")
    after = recipe.open_recipe(["my.toml"], environ={}).graph()
    assert before["trained"].key != after["trained"].key
    assert before["problems"].key == after["problems"].key


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("broken", "my.py:broken fails (found ZeroDivisionError: division by zero)"),
        ("stingy", "my.py:stingy pays nothing for a right answer"),
        ("scor", "did you mean 'score'"),
    ],
)
def test_a_reward_that_cannot_teach_is_refused_before_anything_is_written(
    thinkery, folder: Path, tiny_qwen: Path, reward: str, message: str
) -> None:
    write_data(folder / "my.jsonl")
    code, _, err = thinkery("init", "--data", "my.jsonl", "--reward", f"my.py:{reward}", "--model", tiny_qwen)
    assert code in (2, 4)
    assert message in err
    assert not (folder / "my.toml").exists()


def test_rows_without_a_question_are_refused_with_their_fields(thinkery, folder: Path, tiny_qwen: Path) -> None:
    (folder / "odd.jsonl").write_text('{"apples": 3, "pears": 4}\n' * 5)
    code, _, err = thinkery("init", "--data", "odd.jsonl", "--model", tiny_qwen)
    assert code == 4
    assert "apples, pears" in err


def test_init_alone_writes_a_copy_of_the_embedded_recipe_once(thinkery, folder: Path) -> None:
    assert thinkery("init")[0] == 0
    assert recipe.open_recipe(["recipe.toml"], environ={}).graph().keys() >= {"zero", "align", "report"}
    code, _, err = thinkery("init")
    assert code == 2
    assert "recipe.toml: there is a recipe already" in err


def test_data_needs_a_model(thinkery, folder: Path) -> None:
    write_data(folder / "my.jsonl")
    code, _, err = thinkery("init", "--data", "my.jsonl")
    assert code == 2
    assert "--model" in err


def test_tasks_that_a_run_drops_are_dropped_and_the_reward_is_tried_on_the_rest(thinkery, folder, tiny_qwen) -> None:
    rows = [{"problem": f"What is {n} plus 1?", "answer": "???" if n in (1, 2) else str(n + 1)} for n in range(60)]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = thinkery("init", "--data", "my.jsonl", "--model", tiny_qwen)
    assert code == 0
    assert "2 of the tasks dropped: gold cannot be read as mathematics" in err
    assert "50 tasks to practise on" in out
    assert "a right answer earns 1 on average of 16, 0 of them nothing" in out


def test_tasks_of_which_none_can_be_read_are_refused(thinkery, folder, tiny_qwen) -> None:
    rows = [{"problem": f"What is {n} plus 1?", "answer": "???", "kind": "math"} for n in range(60)]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = thinkery("init", "--data", "my.jsonl", "--reward", "my.py:score", "--model", tiny_qwen)
    assert code == 4
    assert "my.jsonl: no task is left" in err


def test_tasks_that_nothing_judges_need_a_reward(thinkery, folder, tiny_qwen) -> None:
    rows = [{"prompt": f"Write a poem about {n}."} for n in range(60)]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = thinkery("init", "--data", "my.jsonl", "--model", tiny_qwen)
    assert code == 2
    assert "nothing judges these (found tasks of the kind general)\n  try: give --reward FILE.py:NAME" in err
    assert thinkery("init", "--data", "my.jsonl", "--reward", "my.py:length", "--model", tiny_qwen)[0] == 0


def test_repeated_questions_count_once_for_the_exam(thinkery, folder, tiny_qwen) -> None:
    def share(path: str, rows: list[dict]) -> float:
        (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert thinkery("init", "--data", path, "--model", tiny_qwen)[0] == 0
        return recipe.open_recipe([path.replace("jsonl", "toml")], environ={}).loaded.config.exam.sources[0].held_out

    rows = [{"question": f"What is {n} plus 7?", "answer": str(n + 7)} for n in range(100)]
    assert share("once.jsonl", rows) == share("often.jsonl", rows * 8)
    code, _, err = thinkery("init", "--data", "once.jsonl", "--model", tiny_qwen, "--out", "again")
    assert code == 0, err
    (folder / "same.jsonl").write_text((json.dumps(rows[0]) + "\n") * 50)
    code, _, err = thinkery("init", "--data", "same.jsonl", "--model", tiny_qwen)
    assert code == 4
    assert "too few different tasks to keep some for an exam (found 1)" in err


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


def typing(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("".join(f"{line}\n" for line in lines)))


def test_a_kind_and_a_language_are_typed_as_words(thinkery, folder, tiny_qwen, monkeypatch) -> None:
    write_data(folder / "my.jsonl")
    typing(monkeypatch, "", "", "", "", "exakt", "exact", "English", "=en")
    code, out, err = thinkery("init", "--data", "my.jsonl", "--model", tiny_qwen)
    assert code == 0, err
    assert "no row has 'exakt'; type the name of a field or one of math, choice, exact, general" in err
    assert "no row has 'English'; type the name of a field or a tag such as en" in err
    assert "question = question, answer = answer, kind = =exact, language = =en" in out


def test_context_and_choices_are_asked_for_and_the_kind_follows(thinkery, folder, tiny_qwen, monkeypatch) -> None:
    row = {"ask": "Which is it?", "about": "It is red.", "x": "blood", "y": "snow", "right": "blood"}
    (folder / "my.jsonl").write_text("".join(json.dumps({**row, "about": f"It is {n}."}) + "\n" for n in range(60)))
    typing(monkeypatch, "frage", "ask", "about", "right", "x,z", "x, y", "", "-")
    code, out, err = thinkery("init", "--data", "my.jsonl", "--model", tiny_qwen)
    assert code == 0, err
    assert "no row has 'frage'; type the name of a field" in err
    assert "no row has 'x,z'" in err
    expected = "question = ask, context = about, answer = right, choices = ('x', 'y'), kind = =choice"
    assert f"{expected}\n" in out


def test_an_end_of_typing_says_what_to_do(thinkery, folder, tiny_qwen, monkeypatch) -> None:
    write_data(folder / "my.jsonl")
    typing(monkeypatch, "")
    code, _, err = thinkery("init", "--data", "my.jsonl", "--model", tiny_qwen)
    assert code == 2
    assert "no context was given\n  try: --yes takes what was inferred without asking" in err
