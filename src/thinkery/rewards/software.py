"""Software engineering: does a change to a small repository make its hidden tests pass?

A task of kind "software" asks with an issue text and the files (`tasks.mutants.software_prompt`), and carries in `info`
    {"files": {"bag/totals.py": "…"}, "test": "from bag.totals import total\\ndef test_total(): assert …"}
The answer is a change in either form, after the thought:
    a unified diff in a ```diff block (or the last block that is one), or
    whole files in fenced blocks that name their path: ```python bag/totals.py
A repository with one file may be answered by one block without a path. The tests run in a process of their own
(thinkery.sandbox), so the change cannot alter them, and files of the answer that would replace the tests do nothing.
Anything with files, an issue and tests fits: sets of the SWE-bench kind need only a source that makes such tasks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from thinkery.core import Task
from thinkery.errors import InputError
from thinkery.rewards.hidden_tests import HiddenTests, NoProgram, blocks
from thinkery.rewards.patch import PatchFailed, apply_patch
from thinkery.sandbox import Asserts, Program
from thinkery.sandbox.testing import Test

_DIFF = re.compile(r"^--- .*\n\+\+\+ .*\n@@ ", re.MULTILINE)
MAX_BYTES = 1 << 20


class SoftwareTests(HiddenTests):
    """1 for a change that makes every hidden test pass, 0 for any other or none."""

    def prepare(self, task: Task, answer: str) -> tuple[Program, Sequence[Test]]:
        """The files as the answer changes them, and the hidden tests of the task."""
        if not task.info.get("files") or not task.info.get("test"):
            raise InputError("the task has no files or no tests", where=task.id)
        try:
            files = changed_files(task.info["files"], answer)
        except PatchFailed as problem:
            raise NoProgram(str(problem)) from problem
        return Program(files=files, limits=self.limits), [Asserts(task.info["test"])]


software_tests = SoftwareTests()


def changed_files(files: Mapping[str, str], answer: str) -> dict[str, str]:
    """The files after the change that an answer proposes; raises PatchFailed where there is none or it does not fit."""
    found = blocks(answer)
    diffs = [text for info, text in found if info.split()[:1] in (["diff"], ["patch"]) or _DIFF.search(text)]
    changed = apply_patch(files, diffs[-1]) if diffs else dict(files) | _whole_files(files, found)
    for path in changed:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or not path:
            raise PatchFailed(f"the path {path!r} leaves the repository")
        if path not in files and PurePosixPath(path).parts[0].removesuffix(".py") in sys.stdlib_module_names:
            raise PatchFailed(f"{path} would replace a module of the standard library")
    if sum(map(len, changed.values())) > MAX_BYTES:
        raise PatchFailed("the changed files are too large")
    return changed


def _whole_files(files: Mapping[str, str], found: Sequence[tuple[str, str]]) -> dict[str, str]:
    named = {path: text for info, text in found if (path := _path(info, files))}
    if named:
        return named
    if len(files) == 1 and found:
        return {next(iter(files)): found[-1][1]}
    raise PatchFailed("no diff and no file in the answer")


def _path(info: str, files: Mapping[str, str]) -> str:
    """The path that the info string of a block names, as in `python bag/totals.py`; "" where it names none."""
    words = [word.removeprefix("path=").strip("'\"") for word in info.replace(":", " ").split()]
    return next((word for word in reversed(words) if word in files or "/" in word or word.endswith(".py")), "")
