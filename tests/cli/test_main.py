"""The command line as a whole: speed of help, exit codes, and how errors look."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from thinkery.cli.main import VERBS

RUN = [sys.executable, "-m", "thinkery.cli"]


def cpu_seconds(command: list[str]) -> float:
    """Processor time of one command, which other work on the machine does not lengthen much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["show", "--help"], ["chat", "--help"]])
def test_help_takes_less_than_a_third_of_a_second(words: list[str]) -> None:
    assert min(cpu_seconds([*RUN, *words]) for _ in range(3)) < 0.3


def test_no_verb_imports_torch_for_its_help() -> None:
    code = (
        "import sys; from thinkery.cli.main import main\n"
        f"for verb in {list(VERBS)!r}: assert main([verb, '--help']) == 0, verb\n"
        "sys.exit(' '.join({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_show_and_doctor_read_what_there_is_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from thinkery.cli.main import main\n"
        f"main(['show', {str(tmp_path)!r}]); main(['data', 'verify', {str(tmp_path)!r}])\n"
        "sys.exit(int('torch' in sys.modules))"
    )
    (tmp_path / "run.json").write_text('{"id": "1", "seed": 0, "created": 0, "attempts": [], "graph": []}')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_verb_says_what_it_does_in_the_help(thinkery) -> None:
    code, out, _ = thinkery("--help")
    assert code == 0
    assert all(f"\n    {verb} " in out for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        (["run", "tiny", "zero.grpo.updtes=3"], 2, "zero.grpo.updtes: no such setting (did you mean 'updates'?)"),
        (["run", "tiny", "--only", "zer0", "--dry-run"], 2, "there is no step 'zer0'"),
        (["run", "tiny", "nonsense"], 2, "nonsense"),
        (["run", "no-such-recipe"], 4, "no recipe 'no-such-recipe'"),
        (["show", "no-such-run"], 4, "no recipe 'no-such-run'"),
        (["report", "no-such-run"], 4, "not a run directory"),
        (["data", "inspect", "missing.jsonl"], 4, "missing.jsonl: no such file"),
        (["generate", "no-such-model", "hello"], 4, "no-such-model: no such model"),
        (["config", "explain", "zero.grpo.updte"], 2, "did you mean 'zero.grpo.updates'"),
    ],
)
def test_a_mistake_is_one_clear_error_with_its_exit_code(thinkery, words: list[str], code: int, message: str) -> None:
    found, out, err = thinkery(*words)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_a_file_that_may_not_be_written_is_an_input_error(thinkery, tmp_path: Path) -> None:
    code, _, err = thinkery("data", "make", "world", "limit=2", "--out", tmp_path / "no" / "such" / "folder.jsonl")
    assert code == 4
    assert err.startswith(f"error: {tmp_path}/no/such/folder.jsonl: no such file or directory")


def test_an_unexpected_error_is_one_line_and_keeps_its_traceback(thinkery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "thinkery.cli.doctor", None)  # importing it now fails, as a broken install would
    code, _, err = thinkery("doctor")
    first, second = err.strip().splitlines()
    assert code == 1
    assert first.startswith("error: unexpected ModuleNotFoundError")
    kept = Path(second.split("traceback in ")[1].split(",")[0])
    assert "Traceback (most recent call last)" in kept.read_text()
    kept.unlink()


def test_debug_shows_the_traceback_wherever_it_stands(thinkery) -> None:
    assert "Traceback" in thinkery("--debug", "run", "no-such-recipe")[2]
    assert "Traceback" in thinkery("run", "no-such-recipe", "--debug")[2]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*RUN, "config", "schema"], stdout=write, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_settings_may_stand_behind_options(thinkery) -> None:
    code, out, _ = thinkery("run", "tiny", "--dry-run", "--only", "base", "base.model=smollm2", "--dir", "/nowhere")
    assert code == 0
    assert "base" in out
