"""generate, chat and eval on a tiny random model, and how text streams."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from thinkery.cli import models
from thinkery.cli.answering import content_of
from thinkery.cli.chat import Printer
from thinkery.errors import InputError
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.build import build
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step
from thinkery.rewards.preference import RewardModel


def printed(capsys: pytest.CaptureFixture[str], pieces: list[str], *, opened: bool, show_thought: bool = True) -> str:
    printer = Printer(opened=opened, show_thought=show_thought)
    for piece in pieces:
        printer.write(piece)
    printer.close()
    return capsys.readouterr().out


def test_tags_are_not_shown_even_when_they_come_in_pieces(capsys) -> None:
    assert printed(capsys, ["<th", "ink>let me", " see</thi", "nk>\n", "four"], opened=False) == "let me see\n\nfour\n"
    assert printed(capsys, ["one </ two</think>three"], opened=True) == "one </ two\n\nthree\n"


def test_text_without_a_thought_streams_as_it_is(capsys) -> None:
    assert printed(capsys, ["<", "b>four", "</think>"], opened=False) == "<b>four</think>\n"


def test_a_hidden_thought_leaves_a_mark_and_the_answer(capsys) -> None:
    text = ["<think>", "secret", "</think>", " four"]
    assert printed(capsys, text, opened=False, show_thought=False) == "(thinking)\nfour\n"


def test_a_thought_that_never_closes_is_shown_to_its_end(capsys) -> None:
    assert printed(capsys, ["let me see </thi"], opened=True) == "let me see </thi\n"


def test_generate_gives_as_many_completions_as_asked_and_the_same_again(thinkery, tiny_qwen: Path) -> None:
    words = ("generate", tiny_qwen, "2 + 2?", "-n", 3, "--max-tokens", 8, "--temperature", 1, "--json")
    code, out, _ = thinkery(*words)
    completions = json.loads(out)
    assert code == 0
    assert len(completions) == 3
    assert len({c["text"] for c in completions}) == 3
    assert all(c["tokens"] <= 8 for c in completions)
    assert thinkery(*words)[1] == out


def test_raw_continues_the_text_without_a_template(thinkery, tiny_qwen: Path) -> None:
    code, out, _ = thinkery("generate", tiny_qwen, "abc", "--raw", "--max-tokens", 4, "--temperature", 0, "--json")
    assert code == 0
    assert json.loads(out)[0]["tokens"] <= 4


def test_an_unknown_template_lists_the_known_ones(thinkery, tiny_qwen: Path) -> None:
    code, _, err = thinkery("generate", tiny_qwen, "abc", "--template", "nonsense")
    assert code == 4
    assert "r1-zero" in err


def test_chat_answers_every_line_and_obeys_its_commands(thinkery, tiny_qwen: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\n/think\n/new\nagain\n/quit\nnever read\n"))
    code, out, err = thinkery("chat", tiny_qwen, "--max-tokens", 6, "--temperature", 1)
    assert code == 0
    assert len(out.splitlines()) >= 2
    assert "the thought is folded" in err


def test_eval_measures_a_file_of_ones_own(thinkery, tiny_qwen: Path, tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n{"question": "1 + 2?", "answer": "3"}\n')
    (tmp_path / "my.py").write_text("def half(task, completion):\n    return 0.5\n")
    code, out, _ = thinkery(
        *("eval", tiny_qwen, "--source", tmp_path / "my.jsonl", "-k", 2, "--max-tokens", 6, "--json"),
        *("--reward", f"{tmp_path}/my.py:half", "--out", tmp_path),
    )
    (estimates,) = json.loads(out)["results"].values()
    assert code == 0
    assert estimates["own"]["value"] == 0.5
    assert estimates["pass@1"]["n"] == 2
    rows = [json.loads(line) for line in (tmp_path / "my" / "attempts.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert {row["gold"] for row in rows} == {"3", "4"}


def test_reward_models_of_a_run_are_found_by_name_and_offered_to_nobody(tiny_qwen: Path, tmp_path: Path) -> None:
    def base(run: Run) -> Model:
        return run.save_model(lambda folder: shutil.copytree(tiny_qwen, folder, dirs_exist_ok=True))

    def harmless(run: Run, base: Model) -> Model:
        return run.save_model(RewardModel.start(base.folder).save)

    first = step("base", base)
    build({"base": first, "harmless": step("harmless", harmless, base=first)}, tmp_path / "run", seed=1)
    assert list(models.stages_of_run(tmp_path / "run")) == ["base"]
    assert models.find_model(str(tmp_path / "run")).parent.name.startswith("base-")
    assert models.find_model(f"{tmp_path}/run:harmless").parent.name.startswith("harmless-")


def test_a_model_that_cannot_be_opened_is_refused_before_all_of_it_is_read(tiny_qwen: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_qwen, tmp_path / "model")
    assert len(content_of(str(tmp_path / "model"))) > 16
    weights = tmp_path / "model" / "model.safetensors"
    header = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="not those of the architecture"):
        content_of(str(tmp_path / "model"))
