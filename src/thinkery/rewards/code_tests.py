"""Code: does the program of an answer pass its tests? They run in the sandbox; see `thinkery.sandbox` for its limits.

A task of kind "code" carries in `info` one of
    {"tests": [{"stdin": "1 2", "stdout": "3"}, …]}                            what it must print
    {"tests": [{"function": "add", "arguments": [1, 2], "result": 3}, …]}      what its function must return
    {"test": "assert add(1, 2) == 3", "entry_point": "add"}                    assertions; HumanEval's `check` too
and may have {"limits": {"cpu_s": 2, "memory_mb": 256}} and {"before": "def add(a, b):\\n"}, source that stands before
a continuation (HumanEval's prompt). The program is the last fenced block of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinkery.chat import split
from thinkery.core import Task
from thinkery.rewards.hidden_tests import HiddenTests, NoProgram, blocks
from thinkery.sandbox import Asserts, Call, InputOutput, Limits, Program
from thinkery.sandbox.testing import Test

_CPP = ("cpp", "c++", "cc", "cxx")


class CodeTests(HiddenTests):
    """1 for a program that passes all its tests, 0 for any other or none."""

    def prepare(self, task: Task, answer: str) -> tuple[Program, Sequence[Test]]:
        """The last fenced block of the answer, and the tests that the task carries."""
        found = blocks(answer)
        if not found:
            raise NoProgram("no code block")
        return program_of(task.info, *found[-1], limits=self.limits), tests_of(task.info)


code_tests = CodeTests()


def extract_code(output: str) -> str | None:
    """The program of an answer: its last closed fenced block, after the thought where there is one; None without.

    A thought that is still open, or was opened by the prompt and never closed, has no program after it.
    """
    parts = split(output, opened="</think>" in output)
    found = blocks(parts.answer)
    return found[-1][1] if found else None


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
