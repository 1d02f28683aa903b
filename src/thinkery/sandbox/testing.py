"""Tests of a program and the verdict on it: pass, wrong, error or timeout.

    InputOutput   what it must print for an input; compared outside the sandbox, line by line (compare.py)
    Call          what one of its functions (or a method of its class Solution) must return
    Asserts       test source with assertions about its names, in a process of its own (inside/asserting.py)

Tests run in the given order and stop at the first that fails.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from thinkery.sandbox.compare import difference
from thinkery.sandbox.pool import Pool, outcome, shared_pool
from thinkery.sandbox.program import Program, Verdict


@dataclass(frozen=True, slots=True)
class InputOutput:
    """The program reads `stdin` and must write `stdout`."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class Call:
    """`function` called with `arguments` must return `result`; all plain data, and a tuple counts as a list."""

    function: str
    arguments: Sequence[Any]
    result: Any


@dataclass(frozen=True, slots=True)
class Asserts:
    """Python source with assertions; where it defines `check`, check(entry_point) is called (HumanEval)."""

    source: str
    entry_point: str = ""


Test = InputOutput | Call | Asserts


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on a program; `passed` of `total` tests held before the first that did not."""

    verdict: Verdict
    detail: str = ""
    passed: int = 0
    total: int = 0


def run_tests(program: Program, tests: Sequence[Test], pool: Pool | None = None) -> Result:
    """Judge a program by its tests. A C++ program is compiled once; only Python has calls and assertions.

    Raises EnvironmentLacks where there is no sandbox, ValueError for no tests or calls to a C++ program, SyntaxError
    for tests that are no Python.
    """
    if not tests:
        raise ValueError("a program cannot be judged without tests")
    pool = pool or shared_pool()
    for test in tests:
        if isinstance(test, Asserts):
            ast.parse(test.source)  # tests that are no Python are not the fault of the program
    if program.language != "python" and not all(isinstance(test, InputOutput) for test in tests):
        raise ValueError(f"only stdin tests can judge a {program.language} program")
    binary, failure = pool.compile(program)
    if failure:
        return Result(failure.verdict, failure.detail, 0, len(tests))
    passed = 0
    for is_call, group in groupby(tests, lambda test: isinstance(test, Call)):
        some = list(group)
        asked: list[InputOutput | Asserts] = [_as_asserts(some)] if is_call else some  # pyright: ignore
        for test in asked:
            if isinstance(test, InputOutput):
                verdict, detail = _compare(program, test, binary, pool)
            else:
                verdict, detail = _assert(program, test, pool)
            if verdict != "pass":
                return Result(verdict, f"test {passed + 1}: {detail}", passed, len(tests))
            passed += len(some) if is_call else 1
    return Result("pass", "", passed, len(tests))


def _compare(program: Program, test: InputOutput, binary: str, pool: Pool) -> tuple[Verdict, str]:
    program = replace(program, stdin=test.stdin)
    ended = outcome(pool.ask(program, "run", binary=binary), program)
    if ended.verdict != "pass":
        return ended.verdict, ended.detail
    found = difference(ended.stdout, test.stdout)
    return ("wrong", found) if found else ("pass", "")


def _assert(program: Program, test: Asserts, pool: Pool) -> tuple[Verdict, str]:
    """Only the report of the tests' own process, which the program has no way to, can say that they passed."""
    reply = pool.ask(program, "test", tests={"tests": test.source, "entry_point": test.entry_point})
    ended = outcome(reply, program)
    if reply["stopped"] or ended.verdict == "timeout":
        return ended.verdict, ended.detail
    try:
        report = json.loads(reply.get("report", ""))
    except ValueError:
        return "error", ended.detail or "its tests were ended before they could report"
    return report["verdict"], report["detail"]


def _as_asserts(calls: Sequence[Call]) -> Asserts:
    """Calls as assertions; as in LiveCodeBench all of them meet the same loaded program."""
    lines = ["from json import loads as _loads"]
    for call in calls:
        arguments, result = json.dumps(list(call.arguments)), json.dumps(call.result)
        lines.append(f"_answer = _function({call.function!r})(*_loads({arguments!r}))")
        lines.append(f"assert _plain(_answer) == _loads({result!r})  # {call.function}{arguments[1:-1]!s:.100}")
    return Asserts(_CALLING + "\n".join(lines), calls[0].function)


_CALLING = """
def _function(name):
    return getattr(Solution(), name) if "Solution" in globals() else globals()[name]


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


"""
