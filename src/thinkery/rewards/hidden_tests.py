"""Answers that are run: what the rewards for programs and for changes to a repository share.

The program of an answer runs in the sandbox against tests that the answer never sees; `thinkery.sandbox` lists the
limits. 1 where every test passes, 0 for any other program or none; trouble with the sandbox or with the tests
themselves is ungraded. Equal answers to one task, which small models give often, are run once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from thinkery.core import Completion, Score, Task
from thinkery.errors import ThinkeryError
from thinkery.sandbox import Limits, Pool, Program, run_tests, shared_pool
from thinkery.sandbox.testing import Test

_FENCE = re.compile(r"^([ \t]*)(```+|~~~+)[ \t]*([^\n`]*)\n(.*?)^[ \t]*\2[ \t]*\r?$", re.MULTILINE | re.DOTALL)
_TAGGED = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)


class NoProgram(ValueError):
    """An answer with nothing in it that could be run; the message says why and becomes the reason of its 0."""


class HiddenTests(ABC):
    """A reward that runs answers; `pool` and `limits` are the sandbox's, the shared pool where none is given."""

    def __init__(self, pool: Pool | None = None, limits: Limits | None = None) -> None:
        self.limits, self._pool = limits or Limits(), pool

    def __call__(self, task: Task, completion: Completion) -> Score:
        return self.batch([(task, completion)])[0]

    def rule(self, task: Task) -> bool:
        """Whether any machine may judge, as each has a shared pool of its own."""
        return self._pool is None

    def batch(self, pairs: Sequence[tuple[Task, Completion]]) -> list[Score]:
        """One score per pair, in order; as many at a time as the pool has sandboxes."""
        pool = self._pool or shared_pool()
        keys = [(id(task), _is_open(said), said.answer) for task, said in pairs]
        different = dict(zip(keys, pairs, strict=True))
        judged = pool.map(lambda pair: self._judge(*pair, pool), list(different.values()))
        scores = dict(zip(different, judged, strict=True))
        return [scores[key] for key in keys]

    @abstractmethod
    def prepare(self, task: Task, answer: str) -> tuple[Program, Sequence[Test]]:
        """The program that an answer makes and the tests it must pass; raises NoProgram where it makes none.

        Any other ThinkeryError, ValueError, KeyError, TypeError or SyntaxError is the task's fault.
        """

    def _judge(self, task: Task, completion: Completion, pool: Pool) -> Score:
        if _is_open(completion):
            return Score(0.0, "thought not closed")
        try:
            result = run_tests(*self.prepare(task, completion.answer), pool)
        except NoProgram as problem:
            return Score(0.0, str(problem))
        except (ThinkeryError, ValueError, KeyError, TypeError, SyntaxError) as problem:
            return Score(None, f"{type(problem).__name__}: {problem}"[:500])
        if result.verdict == "pass":
            return Score(1.0, "every hidden test passed")
        return Score(0.0, f"{result.verdict}: {result.detail}")


def blocks(answer: str) -> list[tuple[str, str]]:
    """(info string, content) of every closed fenced block of Markdown, in order; answer tags around it all go.

    The content is indented less by as much as its fence is, as in a list. Lines may end in CRLF, and keep it.
    """
    tagged = _TAGGED.fullmatch(answer)
    return [
        (info.strip(), _unindented(content, len(indent)))
        for indent, _, info, content in _FENCE.findall(tagged[1] if tagged else answer)
    ]


def _unindented(content: str, spaces: int) -> str:
    """Every line without so many blanks at its beginning, or those that it has."""
    return re.sub(rf"^[ \t]{{1,{spaces}}}", "", content, flags=re.MULTILINE) if spaces else content


def _is_open(completion: Completion) -> bool:
    return completion.thought is not None and not completion.closed
