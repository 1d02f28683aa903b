"""The program's side: run it as a script, run a compiled one, or load it and answer the calls of its tests.

Everything here shares the process with the program, which may change any of it: nothing that decides a verdict is here.
"""

from __future__ import annotations

import atexit
import builtins
import importlib
import os
import socket
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any, NoReturn

from thinkery.sandbox.inside.wire import decode, encode, quote, receive, send

_MUTABLE = (list, dict, set)


def write_files(files: dict[str, str]) -> None:
    """Put the program's files into the present folder and make them importable."""
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
        sys.modules.pop(module_name(path), None)
    if files:
        sys.path.insert(0, os.getcwd())


def module_name(path: str) -> str:
    """The module or package at the top that a file belongs to."""
    return Path(path).parts[0].removesuffix(".py")


def run_source(source: str) -> NoReturn:
    """Run Python source as `python program.py` would, and end as it would."""
    namespace = _main_module("__main__")
    code = 0
    try:
        exec(compile(source, "program.py", "exec"), namespace)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    _finish(code & 0xFF)


def run_binary(binary: bytes) -> NoReturn:
    """Become a compiled program, which is never a file that could be changed."""
    memory = os.memfd_create("program")
    with open(memory, "wb", closefd=False) as file:
        file.write(binary)
    reader = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(memory)  # a file that is open for writing cannot be executed
    os.execve(reader, ["program"], {"PATH": "/usr/bin"})


def serve_calls(source: str, channel: socket.socket) -> NoReturn:
    """Load a program and do what its tests ask for, until they close the channel."""
    namespace = _main_module("program")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    service = _Service(channel, namespace)
    try:
        exec(compile(source, "program.py", "exec"), namespace)
    except BaseException as error:
        send(channel, {"error": service.describe(error)})
        traceback.print_exc()
        _finish(1)
    send(channel, {"value": service.names(namespace)})
    while (request := receive(channel)) is not None:
        send(channel, service.answer(request))
    _finish(0)


class _Service:
    """Objects that stay in this process and the requests that tests make of them."""

    def __init__(self, channel: socket.socket, namespace: dict[str, Any]) -> None:
        self.channel, self.namespace = channel, namespace
        self.objects: list[Any] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to {"call" | "get" | "set" | "import": …}: a value, or the error that was raised."""
        try:
            if "import" in request:
                return {"value": self.names(vars(importlib.import_module(request["import"])))}
            target = self.objects[next(request[verb] for verb in ("call", "get", "set") if verb in request)]
            if "get" in request:
                return {"value": self.encode(getattr(target, request["name"]))}
            if "set" in request:
                return {"value": setattr(target, request["name"], self.decode(request["value"]))}
            args, kwargs = self.decode(request["args"]), self.decode(request["kwargs"])
            value = self.encode(target(*args, **kwargs))
            return {"value": value, "args": [self.encode(a) if isinstance(a, _MUTABLE) else None for a in args]}
        except BaseException as error:
            return {"error": self.describe(error)}

    def names(self, namespace: dict[str, Any]) -> dict[str, Any]:
        """Every public name of a module, encoded; what cannot be encoded is left out."""
        found = {}
        for name, value in list(namespace.items()):
            if not name.startswith("__"):
                try:
                    found[name] = self.encode(value)
                except Exception:
                    continue
        return found

    def describe(self, error: BaseException) -> list[Any]:
        """[class, arguments as text, one line] of an exception."""
        try:
            arguments = [self.encode(a) for a in error.args if isinstance(a, str | int | float)]
        except BaseException:
            arguments = []
        return [self.export(type(error)), arguments, quote(error)]

    def encode(self, value: Any) -> Any:
        return encode(value, self.export)

    def decode(self, data: Any) -> Any:
        return decode(data, self.imported)

    def export(self, value: Any) -> list[Any]:
        """How something that is no plain data crosses: a module or an exception by name, the rest by number."""
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type) and issubclass(value, BaseException):
            base = next(c for c in value.__mro__ if getattr(builtins, c.__name__, None) is c)
            return ["exception", [value.__name__, base.__name__]]
        for number, known in enumerate(self.objects):
            if known is value:
                return ["remote", number]
        self.objects.append(value)
        return ["remote", len(self.objects) - 1]

    def imported(self, kind: str, content: Any) -> Any:
        """Objects of this process come back as themselves, functions of the tests as functions that ask the tests."""
        if kind == "remote":
            return self.objects[content]
        return lambda *args: self._call_back(content, args)

    def _call_back(self, number: int, args: tuple[Any, ...]) -> Any:
        send(self.channel, {"callback": number, "args": self.encode(list(args))})
        reply = receive(self.channel)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return self.decode(reply["value"])


def _main_module(name: str) -> dict[str, Any]:
    """The namespace of a new module that is __main__ to everyone, and streams on the file descriptors of now."""
    module = types.ModuleType(name)
    sys.modules[name] = sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    return module.__dict__


def _finish(code: int) -> NoReturn:
    """End as an interpreter does: wait for threads, run exit functions, write what is buffered."""
    try:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 120  # what Python exits with when flushing fails
    os._exit(code)
