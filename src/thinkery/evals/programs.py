"""Benchmarks whose answers are programs: HumanEval, CodeContests and LiveCodeBench as tasks of kind "code".

The program is the last fenced block of an answer (R1 v2 §D.1); `rewards.code_tests` says what a task carries.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from thinkery.core import Task
from thinkery.errors import InputError
from thinkery.tasks.files import Place
from thinkery.tasks.public import FUNCTION

PROGRAM = "Write a Python program from standard input to standard output, and end with it in one fenced block."
METHOD = "Complete the class in Python, keep the names that are given, and end with the whole code in one fenced block."


def humaneval(rows: Iterable[Place]) -> Iterator[Task]:
    """HumanEval: a signature with a docstring is to be completed; a continuation of it alone will do as well."""
    for _, row in rows:
        prompt = f"{FUNCTION}\n\n```python\n{row['prompt']}```"
        yield _task(
            "humaneval", row["task_id"], prompt, test=row["test"], entry_point=row["entry_point"], before=row["prompt"]
        )


def code_contests(rows: Iterable[Place]) -> Iterator[Task]:
    """CodeContests: a program from standard input to standard output; rows are rllm's, or DeepMind's own."""
    for i, (_, row) in enumerate(rows):
        prompt = f"{row.get('problem', row.get('description', '')).strip()}\n\n{PROGRAM}"
        pairs = _contest_tests(row)
        yield _task("codecontests", i, prompt, tests=[{"stdin": given, "stdout": wanted} for given, wanted in pairs])


def livecodebench(rows: Iterable[Place]) -> Iterator[Task]:
    """LiveCodeBench from the user's copy of a release (`test.jsonl`), with its public and private tests."""
    for where, row in rows:
        try:
            tests = json.loads(row["public_test_cases"]) + _private_tests(row["private_test_cases"])
            function = json.loads(row.get("metadata") or "{}").get("func_name", "")
            starter = row.get("starter_code") or ""
            asked = f"{METHOD}\n\n```python\n{starter}\n```" if starter else PROGRAM
            prompt = f"{row['question_content']}\n\n{asked}"
            yield _task("livecodebench", row["question_id"], prompt, tests=[_livecode_test(t, function) for t in tests])
        except (KeyError, ValueError, TypeError, zlib.error, pickle.UnpicklingError) as problem:
            hint = "each line is a problem as LiveCodeBench's code_generation files have it"
            raise InputError(f"not a problem: {type(problem).__name__}: {problem}", where=where, hint=hint) from problem


def _task(source: str, id: Any, prompt: str, **info: Any) -> Task:
    return Task(f"{source}/{id}", prompt, "code", None, "en", source, info=info)


def _contest_tests(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a program reads and must write, test by test."""
    if "tests" in row:
        tests = ast.literal_eval(row["tests"]) if isinstance(row["tests"], str) else row["tests"]
        yield from zip(tests["inputs"], tests["outputs"], strict=True)
    for kind in ("public_tests", "private_tests", "generated_tests"):
        if kind in row:
            yield from zip(row[kind]["input"], row[kind]["output"], strict=True)


def _livecode_test(test: Mapping[str, str], function: str) -> dict[str, Any]:
    """A test of standard input, or a call whose arguments stand on a line each, as JSON."""
    if test["testtype"] != "functional":
        return {"stdin": test["input"], "stdout": test["output"]}
    arguments = [json.loads(line) for line in test["input"].splitlines() if line.strip()]
    return {"function": function, "arguments": arguments, "result": json.loads(test["output"])}


def _private_tests(packed: str) -> list[dict[str, str]]:
    """Tests as JSON, or as the released files hide them: JSON in a pickle, compressed, in base64."""
    if packed.lstrip().startswith("["):
        return json.loads(packed)
    return json.loads(_PlainData(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load())


class _PlainData(pickle.Unpickler):
    """Reads pickles of plain data only: one that names a class or a function is refused, so none can run anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the pickle names {module}.{name}")
