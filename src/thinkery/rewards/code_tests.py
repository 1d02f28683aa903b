"""Code: does the program of an answer pass its tests? They run in the sandbox; see `thinkery.sandbox` for its limits.

A task of kind "code" carries in `info` one of
    {"tests": [{"stdin": "1 2", "stdout": "3"}, …]}                            what it must print
    {"tests": [{"function": "add", "arguments": [1, 2], "result": 3}, …]}      what its function must return
    {"test": "assert add(1, 2) == 3", "entry_point": "add"}                    assertions; HumanEval's `check` too
and may have {"limits": {"cpu_s": 2, "memory_mb": 256}} and {"before": "def add(a, b):\\n"}, source that stands before
a continuation (HumanEval's prompt). 1 where every test passes, else 0; trouble with the sandbox is ungraded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinkery.chat import split
from thinkery.core import Completion, Score, Task
from thinkery.errors import ThinkeryError
from thinkery.sandbox import Asserts, Call, InputOutput, Limits, Pool, Program, Result, run_tests, shared_pool
from thinkery.sandbox.testing import Test

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([^\n`]*)\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
_CPP = ("cpp", "c++", "cc", "cxx")


class CodeTests:
    """1 for a program that passes all its tests, 0 for any other or none; `pool` and `limits` are the sandbox's."""

    def __init__(self, pool: Pool | None = None, limits: Limits | None = None) -> None:
        self.limits, self._pool = limits or Limits(), pool

    def __call__(self, task: Task, completion: Completion) -> Score:
        return self.batch([(task, completion)])[0]

    def batch(self, pairs: Sequence[tuple[Task, Completion]]) -> list[Score]:
        """One score per pair, in order; as many at a time as the pool has sandboxes."""
        pool = self._pool or shared_pool()
        return pool.map(lambda pair: self._judge(*pair, pool), pairs)

    def _judge(self, task: Task, completion: Completion, pool: Pool) -> Score:
        if completion.thought is not None and not completion.closed:
            return Score(0.0, "thought not closed")
        found = blocks(completion.answer)
        if not found:
            return Score(0.0, "no code block")
        try:
            program = program_of(task.info, *found[-1], limits=self.limits)
            result = run_tests(program, tests_of(task.info), pool)
        except (ThinkeryError, ValueError, KeyError, TypeError, SyntaxError) as problem:
            return Score(None, f"{type(problem).__name__}: {problem}"[:500])
        return _score(result)


code_tests = CodeTests()


def extract_code(output: str) -> str | None:
    """The program of an answer: its last closed fenced block, after the thought where there is one; None without.

    A thought that is still open, or was opened by the prompt and never closed, has no program after it.
    """
    parts = split(output, opened="</think>" in output)
    found = blocks(parts.answer)
    return found[-1][1] if found else None


def blocks(text: str) -> list[tuple[str, str]]:
    """(info string, content) of every closed fenced block of Markdown, in order."""
    return [(info.strip(), content) for _, info, content in _FENCE.findall(text)]


def program_of(info: Mapping[str, Any], language: str, source: str, limits: Limits) -> Program:
    """The program of a block, with the task's own limits; C++ where the block or the task says so.

    Of what stands before a continuation, only the part above the entry point is kept where the block repeats it.
    """
    limits = replace(limits, **info.get("limits", {}))
    head = f"def {info.get('entry_point', '')}("
    before = info.get("before", "")
    source = (before.partition(head)[0] if head in source else before) + source
    tag = (language.split() or [info.get("language", "python")])[0].lower()
    return Program(source, "cpp" if tag in _CPP else "python", limits=limits)


def tests_of(info: Mapping[str, Any]) -> list[Test]:
    """The tests that a task carries; raises KeyError or ValueError where there are none."""
    if "test" in info:
        return [Asserts(info["test"], info.get("entry_point", ""))]
    return [_test(one) for one in info["tests"]]


def _test(one: Mapping[str, Any]) -> Test:
    if "function" in one:
        return Call(one["function"], one["arguments"], one["result"])
    return InputOutput(one["stdin"], one["stdout"])


def _score(result: Result) -> Score:
    if result.verdict == "pass":
        return Score(1.0, f"{result.total} tests passed")
    return Score(0.0, f"{result.verdict}: {result.detail}")
