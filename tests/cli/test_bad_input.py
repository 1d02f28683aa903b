"""Numbers, files and names that mean nothing: one line that says which, an exit code, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from thinkery.errors import ConfigError
from thinkery.model.locate import locate
from thinkery.stages.common import template_of


@pytest.mark.parametrize(
    "word",
    [
        *("updates=0", "minibatches=0", "group_size=0", "checkpoint_every=0", "preflight=-1", "questions_per_update=0"),
        *("max_tokens=[]", "max_tokens=[[0,-5]]", "max_tokens=[[5,10],[0,20]]", "temperature=-1", "temperature=nan"),
        *("clip_low=nan", "policy.lr=nan", "policy.lr=inf", "policy.lr=-1"),
    ],
)
def test_a_number_of_a_recipe_that_means_nothing_is_refused(thinkery, word):
    code, _, err = thinkery("config", "validate", "tiny", f"zero.grpo.{word}")
    assert code == 2
    assert f"zero.grpo.{word.partition('=')[0]}" in err or word.startswith("max_tokens")


@pytest.mark.parametrize(
    "words",
    [
        *(("evaluate.sampling.temperature=-1",), ("evaluate.sampling.top_p=0",), ("exam.sources.0.limit=-1",)),
        *(("zero.grpo.max_tokens.0.1.x=3",),),
    ],
)
def test_other_settings_too(thinkery, words):
    code, _, err = thinkery("config", "validate", "tiny", *words)
    assert code == 2, err
    assert "bug" not in err


@pytest.mark.parametrize(
    "option", ["--temperature=nan", "--temperature=-1", "--top-p=0", "--max-tokens=0", "--samples=0", "\udc80"]
)
def test_what_cannot_be_sampled_is_said(thinkery, option):
    words = ("hi", option) if option.startswith("--") else (option,)
    assert thinkery("generate", "tiny", *words, "--template", "chat")[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "tiny", "--procs", "0"),
        ("plan", "tiny", "--cluster", "--gpu", "flops=nan"),
        ("run", "tiny", "--procs", "-1", "--dry-run"),
        ("run", "tiny", "--nodes", "0", "--write", "slurm"),
        ("run", "tiny", "--seed", "-1"),
        ("run", "tiny", "--only", "zero", "--from", "reason"),
        ("config", "validate", "tiny", "corpus.chunk=0"),
        ("config", "validate", "tiny", "corpus.general=-1"),
        ("config", "validate", "tiny", "cold_start.sft.batch=0"),
        ("config", "validate", "tiny", "evaluate.samples=0"),
        ("config", "validate", "tiny", "pairs.judgements=0"),
        ("config", "validate", "tiny", "align.general_share=2"),
        ("eval", "tiny", "--source", "world", "-k", "0"),
        ("eval", "tiny", "--source", "world", "--limit", "0"),
        ("eval", "tiny", "--source", "world", "--limit", "-1"),
    ],
)
def test_too_little_is_refused(thinkery, words):
    assert thinkery(*words)[0] == 2


def test_tasks_are_not_written_over_what_is_there(thinkery, tmp_path):
    own = tmp_path / "my.jsonl"
    own.write_text('{"question": "1+1", "answer": "2"}\n' * 3)
    before = own.read_bytes()
    code, _, err = thinkery("data", "make", "jsonl", f"path={own}", "limit=1", "--out", own)
    assert (code, own.read_bytes()) == (4, before)
    assert "there is something already" in err


@pytest.mark.parametrize(
    "body", ["import sys\ndef f(t, c): return 1.0\nsys.exit(0)\n", "def f(t, c): raise SystemExit(0)\n"]
)
def test_a_reward_that_ends_the_program_is_an_error(thinkery, tmp_path, body):
    (tmp_path / "r.py").write_text(body)
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(60)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--data", tmp_path / "d.jsonl", "--model", "tiny", "--out", tmp_path / "o")
    code, _, err = thinkery("init", *words, "--reward", f"{tmp_path / 'r.py'}:f")
    assert code != 0
    assert "SystemExit" in err


@pytest.mark.parametrize("text", ["{}", "[]", "3"])
def test_a_run_json_of_somebody_else(thinkery, tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert [thinkery(*words)[0] for words in (("show", tmp_path), ("report", tmp_path))] == [4, 4]
    assert thinkery("run", "tiny", "--until", "exam", "--dir", tmp_path)[0] == 4


@pytest.mark.parametrize(
    "change",
    [{"num_attention_heads": "four"}, {"max_position_embeddings": "x"}, {"rms_norm_eps": "x"}, {"rope_theta": 0}],
)
def test_a_model_whose_numbers_are_none(thinkery, tmp_path, change):
    path = Path(shutil.copytree(locate("tiny"), tmp_path / "m")) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    code, _, err = thinkery("generate", tmp_path / "m", "hi", "--template", "chat")
    assert code == 4
    assert next(iter(change)) in err


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_model_whose_files_hold_lists(thinkery, tmp_path, name):
    (Path(shutil.copytree(locate("tiny"), tmp_path / "m")) / name).write_text("[]")
    code, _, err = thinkery("generate", tmp_path / "m", "hi", "--template", "chat")
    assert code == 4
    assert name in err


def test_rows_that_are_no_tasks_and_templates_that_are_no_text(thinkery, tmp_path):
    keys = ("id", "prompt", "kind", "gold", "language", "source", "history", "info")
    (tmp_path / "x.jsonl").write_text(json.dumps(dict.fromkeys(keys, 1)) + "\n")
    assert thinkery("data", "inspect", tmp_path / "x.jsonl")[0] == 4
    (tmp_path / "t.jinja").write_bytes(b"\xff\xfe")
    assert thinkery("generate", "tiny", "hi", "--template", tmp_path / "t.jinja")[0] == 4


def test_a_misspelt_template_is_no_template():
    with pytest.raises(ConfigError, match="not a template"):
        template_of("r1_zero")


def test_a_recipe_may_begin_with_a_mark_of_order(thinkery, tmp_path):
    (tmp_path / "my.toml").write_bytes(b'\xef\xbb\xbfextends = "tiny"\n')
    assert thinkery("config", "validate", tmp_path / "my.toml")[0] == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--suite", "gsm8k", "--source", "gsm8k"), "gsm8k"),
        (("--source", "{tmp}/a/my.jsonl", "--source", "{tmp}/b/my.jsonl", "--out", "{tmp}/out"), "my"),
    ],
)
def test_benchmarks_that_would_overwrite_each_other_are_refused(thinkery, tmp_path, words, found):
    code, _, err = thinkery("eval", "tiny", *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert code == 2
    assert "two benchmarks" in err
    assert found in err
    assert not (tmp_path / "out").exists()
