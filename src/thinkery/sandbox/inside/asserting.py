"""The tests' side: assertions about a program that runs in another process.

Every name of the program stands in the tests' namespace: functions, classes and objects as `Remote`s, plain values as
themselves. A `Remote` forwards calls, attributes, length, items and iteration, but never `==`: two are equal only when
they are the same object, and none equals a plain value. Arguments changed in place (list, dict, set) are brought back.

The tests are run as a module; then `check(entry_point)` where they define `check` (HumanEval), and every `test_*`
function. Tests that never reach an assertion prove nothing and are an error.
The report is {"verdict": "pass" | "wrong" | "error", "detail", "asserts"}: wrong where an assertion does not hold, an
error for any other exception, also of the program, and when the program ends while its tests still need it.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from thinkery.sandbox.inside.wire import decode, encode, quote, receive, send

_COUNTER = "__count_assertion__"
_PROTECTED = frozenset(dir(builtins)) | sys.stdlib_module_names


class ProgramGone(BaseException):
    """The program ended, or answered with what is no answer, while its tests still needed it."""


def run_tests(source: str, entry_point: str, modules: list[str], channel: socket.socket, report: int) -> None:
    """Run test source against the program behind `channel`, whose top-level `modules` it imports; write the report."""
    sys.meta_path.insert(0, _Importer(program := _Program(channel), modules))
    reached: list[int] = []
    verdict, detail = _judge(lambda: _run(source, entry_point, program, reached))
    if program.gone:
        verdict, detail = "error", program.gone
    elif verdict == "pass" and not reached:
        verdict, detail = "error", "the tests never reached an assertion"
    os.write(report, json.dumps({"verdict": verdict, "detail": detail, "asserts": len(reached)}).encode())


def _judge(run: Callable[[], None]) -> tuple[str, str]:
    """The verdict on tests, and what the assertion that does not hold or any other exception says."""
    try:
        run()
    except AssertionError as error:
        return "wrong", f"not so: {_failed_line(error)}"
    except BaseException as error:
        return "error", f"{quote(error)} at: {_failed_line(error)}"
    return "pass", ""


def _run(source: str, entry_point: str, program: _Program, reached: list[int]) -> None:
    tree = _Counting().visit(ast.parse(source))
    module = types.ModuleType("tests")
    namespace = module.__dict__
    sys.modules["tests"] = sys.modules["__main__"] = module
    namespace.update(_visible(program.load(), tree, entry_point))
    namespace[_COUNTER] = reached.append
    _lines.extend(source.splitlines())
    exec(compile(ast.fix_missing_locations(tree), "tests.py", "exec"), namespace)
    check = namespace.get("check")
    if entry_point and isinstance(check, types.FunctionType):
        if entry_point not in namespace:
            raise NameError(f"the program does not define {entry_point}")
        check(namespace[entry_point])
    for name, value in list(namespace.items()):
        if name.startswith("test_") and isinstance(value, types.FunctionType) and not value.__code__.co_argcount:
            value()


def _visible(names: dict[str, Any], tree: ast.Module, entry_point: str) -> dict[str, Any]:
    """The program's names but those that would replace a builtin or a module: `abs = lambda x: 0` passes many tests.

    What is tested may have such a name: the entry point, or where none is given and the tests call nothing else of the
    program, whatever they call (MBPP has a function `sum`).
    """
    tested = {entry_point}
    if not entry_point:
        nodes = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
        called = {node.id for node in nodes if isinstance(node, ast.Name)}
        tested = set() if any(name in names and name not in _PROTECTED for name in called) else called
    return {
        name: value
        for name, value in names.items()
        if name not in _PROTECTED or name in tested or isinstance(value, types.ModuleType)
    }


_lines: list[str] = []


def _failed_line(error: BaseException) -> str:
    """The line of the tests an exception comes from."""
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "tests.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    return _lines[line - 1].strip()[:300] if 0 < line <= len(_lines) else "?"


class _Counting(ast.NodeTransformer):
    """Lets every assertion be counted when it is reached."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        count = ast.Expr(ast.Call(ast.Name(_COUNTER, ast.Load()), [ast.Constant(node.lineno)], []))
        return [ast.copy_location(count, node), node]


class _Program:
    """The connection to the program's process."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.gone = ""
        self.functions: list[Callable[..., Any]] = []
        self.remotes: dict[int, Remote] = {}
        self.exceptions: dict[str, type[BaseException]] = {}

    def load(self) -> dict[str, Any]:
        """The names the program defines; raises what loading it raised."""
        return {name: self.decode(value) for name, value in self._value(self._reply()).items()}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request; raises the exception that the program raised."""
        send_error = None
        try:
            send(self.channel, request)
        except OSError as error:
            send_error = error
        if send_error or self.gone:
            self._lose()
        reply = self._reply()
        self._value(reply)
        return reply

    def call(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an object of the program; lists, dicts and sets among `args` become what the call made of them."""
        reply = self.ask({"call": number, "args": self.encode(list(args)), "kwargs": self.encode(kwargs)})
        for argument, after in zip(args, reply["args"], strict=True):
            if after is not None:
                _update(argument, self.decode(after))
        return self.decode(reply["value"])

    def encode(self, value: Any) -> Any:
        return encode(value, self._export)

    def decode(self, data: Any) -> Any:
        return decode(data, self._imported)

    def _reply(self) -> dict[str, Any]:
        """The next reply; before it the program may call functions that it was given."""
        while True:
            try:
                reply = receive(self.channel)
            except Exception as error:
                self._lose(quote(error))
            if not isinstance(reply, dict):
                self._lose()
            if "callback" not in reply:
                return reply
            send(self.channel, self._called_back(reply))

    def _called_back(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"value": self.encode(self.functions[request["callback"]](*self.decode(request["args"])))}
        except Exception as error:
            return {"error": quote(error)}

    def _value(self, reply: dict[str, Any]) -> Any:
        if "error" in reply:
            kind, arguments, line = reply["error"]
            made = self.decode(kind)
            if not issubclass(made, Exception):
                self._lose(f"it raised {line}")
            raise made(*[self.decode(argument) for argument in arguments])
        return reply["value"]

    def _lose(self, why: str = "") -> None:
        self.gone = self.gone or f"the program ended before its tests did{': ' if why else ''}{why}"
        raise ProgramGone(self.gone)

    def _export(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["remote", value._number]
        if callable(value):
            self.functions.append(value)
            return ["function", len(self.functions) - 1]
        raise TypeError(f"the tests pass a {type(value).__name__}, which cannot leave their process")

    def _imported(self, kind: str, content: Any) -> Any:
        if kind == "remote":
            return self.remotes.setdefault(int(content), Remote(self, int(content)))
        if kind == "module":
            return sys.modules[content] if content in sys.modules and content in sys.stdlib_module_names else None
        name, base = content
        built_in = getattr(builtins, base)
        if name == base:
            return built_in
        return self.exceptions.setdefault(name, type(name, (built_in,), {}))


class Remote:
    """Something that lives in the program's process."""

    def __init__(self, program: _Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.call(self._number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._program.decode(self._program.ask({"get": self._number, "name": name})["value"])

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask({"set": self._number, "name": name, "value": self._program.encode(value)})

    def __len__(self) -> int:
        return self.__getattr__("__len__")()

    def __iter__(self) -> Iterator[Any]:
        items = self.__getattr__("__iter__")()
        return _steps(items) if isinstance(items, Remote) else iter(items)

    def __bool__(self) -> bool:
        for name in ("__bool__", "__len__"):
            with contextlib.suppress(AttributeError):
                return bool(self.__getattr__(name)())
        return True

    def __getitem__(self, key: Any) -> Any:
        return self.__getattr__("__getitem__")(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__getattr__("__setitem__")(key, value)

    def __contains__(self, item: Any) -> bool:
        return bool(self.__getattr__("__contains__")(item))

    def __str__(self) -> str:
        return str(self.__getattr__("__str__")())

    def __repr__(self) -> str:
        return str(self.__getattr__("__repr__")())

    def __deepcopy__(self, memo: dict[int, Any]) -> Remote:
        return self


def _steps(items: Remote) -> Iterator[Any]:
    step = items.__getattr__("__next__")
    while True:
        try:
            yield step()
        except StopIteration:
            return


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports of the program's own modules come from its process, also where the standard library has the name."""

    def __init__(self, program: _Program, modules: list[str]) -> None:
        self.program, self.modules = program, modules
        for name in modules:
            sys.modules.pop(name, None)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self.modules:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        names = self.program.ask({"import": module.__name__})["value"]
        vars(module).update({name: self.program.decode(value) for name, value in names.items()})


def _update(argument: Any, after: Any) -> None:
    """Make a mutable argument what it is after the call."""
    if isinstance(argument, list):
        argument[:] = after
    elif isinstance(argument, dict | set):
        argument.clear()
        argument.update(after)
