"""A reward of one's own, named as `my.py:score`.

    def score(task: Task, completion: Completion) -> float:
        return float(completion.answer.strip() == task.gold)

`completion.answer` is what stands in the last `<answer>` tag where there is one, else what follows the thought. The
file runs with all rights of this process: it is your code, not a model's. It may import packages, but no files
beside it.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import sys
import traceback
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from thinkery.core import Completion, Reward, Task
from thinkery.errors import InputError, UsageError


def load_reward(spec: str) -> Reward:
    """The function that `path:name` names; InputError or UsageError says what is wrong with file, name or signature."""
    path, name = _split(spec)
    module = _import(path)
    function: Any = getattr(module, name, None)
    if not inspect.isroutine(function):
        own = [
            n for n, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        near = difflib.get_close_matches(name, own, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its functions are: {', '.join(own) or 'none'}"
        raise InputError(f"no function {name!r}", where=str(path), hint=hint)
    _check_signature(function, f"{path}:{name}")

    @functools.wraps(function)
    def reward(task: Task, completion: Completion) -> Any:
        return function(task, replace(completion, answer=untagged(completion.answer)))

    return reward


def untagged(answer: str) -> str:
    """What the last `<answer>` tag holds; the text itself where there is no tag."""
    return answer.rpartition("<answer>")[2].partition("</answer>")[0].strip() if "<answer>" in answer else answer


def reward_hash(spec: str) -> str:
    """sha256 of the reward's file, so that an edited reward is another setting."""
    path, _ = _split(spec)
    return sha256(path.read_bytes()).hexdigest()


def _split(spec: str) -> tuple[Path, str]:
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise UsageError("not a reward", found=repr(spec), hint="write file.py:function, for example my.py:score")
    path = Path(file)
    if not path.is_file():
        raise InputError("no such file", where=file, hint="give the path of the Python file that defines the reward")
    return path, name


def _import(path: Path) -> ModuleType:
    """The module of a file, imported anew whenever its bytes changed."""
    name = f"thinkery_reward_{sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", where=str(path), hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        del sys.modules[name]
        raise InputError(
            f"the reward's file does not import: {type(problem).__name__}: {problem}", where=_place(path, problem)
        ) from problem
    return module


def _place(path: Path, problem: Exception) -> str:
    """file:line of the last frame inside the file; for a syntax error, of the error."""
    if isinstance(problem, SyntaxError):
        return f"{path}:{problem.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(problem.__traceback__) if Path(f.filename) == path]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _check_signature(function: Any, where: str) -> None:
    try:
        inspect.signature(function).bind("task", "completion")
    except TypeError as problem:
        found = f"{where.rpartition(':')[2]}{inspect.signature(function)}: {problem}"
        raise UsageError(
            "a reward takes (task, completion)", where=where, found=found, hint="def score(task, completion) -> float"
        ) from None
