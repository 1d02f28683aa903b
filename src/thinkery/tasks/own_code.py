"""Functions and classes of one's own, named as `my.py:score`.

The file runs with all rights of this process: it is your code, not a model's. It may import packages, but no files
beside it.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import traceback
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from thinkery.errors import InputError, UsageError


def load_from_file(spec: str, what: str, example: str) -> Any:
    """The function or class that `path:name` names; InputError or UsageError says what is wrong with file or name.

    `what` it should be, such as "reward", and an `example` of a name stand in the errors.
    """
    path, name = split_spec(spec, what, example)
    module = _import(path, what)
    found = getattr(module, name, None)
    if inspect.isroutine(found) or inspect.isclass(found):
        return found
    own = [n for n, one in vars(module).items() if callable(one) and getattr(one, "__module__", "") == module.__name__]
    near = difflib.get_close_matches(name, own, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its functions are: {', '.join(own) or 'none'}"
    raise InputError(f"no function {name!r}", where=str(path), hint=hint)


def split_spec(spec: str, what: str, example: str) -> tuple[Path, str]:
    """The file and the name in `path:name`."""
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise UsageError(
            f"this names no {what}", found=repr(spec), hint=f"write file.py:function, for example {example}"
        )
    path = Path(file)
    if not path.is_file():
        raise InputError("no such file", where=file, hint=f"give the path of the Python file that defines the {what}")
    return path, name


def _import(path: Path, what: str) -> ModuleType:
    """The module of a file, imported anew whenever its bytes changed."""
    name = f"thinkery_own_{sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", where=str(path), hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        del sys.modules[name]
        raise InputError(
            f"the {what}'s file does not import: {type(problem).__name__}: {problem}", where=_place(path, problem)
        ) from problem
    return module


def _place(path: Path, problem: BaseException) -> str:
    """file:line of the last frame inside the file; for a syntax error, of the error."""
    if isinstance(problem, SyntaxError):
        return f"{path}:{problem.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(problem.__traceback__) if Path(f.filename) == path]
    return f"{path}:{lines[-1]}" if lines else str(path)
