"""Messages over a socket, and values that cross between a program and its tests as plain data.

A value is encoded by what it is made of, never by what it says of itself: subclasses of plain types cross as the
plain type, so that nothing a program defines is executed where its tests run. What is no plain data stays where it is
and crosses as the number of a `Remote`.
"""

from __future__ import annotations

import builtins
import collections
import collections.abc
import datetime
import decimal
import fractions
import itertools
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

MAX_MESSAGE = 64 << 20

_SCALARS = (int, float, str)
_CONTAINERS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
_TEXTUAL = {
    "Decimal": (decimal.Decimal, decimal.Decimal.__str__),
    "Fraction": (fractions.Fraction, fractions.Fraction.__str__),
}
_DATES = {
    "datetime": (datetime.datetime, datetime.datetime.isoformat),
    "date": (datetime.date, datetime.date.isoformat),
    "time": (datetime.time, datetime.time.isoformat),
}
_LAZY = (collections.abc.Iterator, collections.abc.KeysView, collections.abc.ValuesView, collections.abc.ItemsView)
LAZY_LIMIT = 1_000_000


def send(channel: socket.socket, message: Any) -> None:
    """Write one JSON message."""
    data = json.dumps(message).encode()
    channel.sendall(struct.pack("!I", len(data)) + data)


def receive(channel: socket.socket) -> Any:
    """The next message, None when the other side has closed; raises ValueError for what is no message."""
    head = _exactly(channel, 4)
    if head is None:
        return None
    (length,) = struct.unpack("!I", head)
    if length > MAX_MESSAGE:
        raise ValueError("a message of more than 64 MiB")
    data = _exactly(channel, length)
    return None if data is None else json.loads(data)


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def encode(value: Any, export: Callable[[Any], list[Any]]) -> Any:
    """JSON for a value; `export` says how anything that is no plain data crosses."""
    kind = type(value)
    if value is None or value is True or value is False:
        return value
    for scalar in _SCALARS:
        if issubclass(kind, scalar):
            return _scalar(scalar, value)
    for name, container in _CONTAINERS.items():
        if issubclass(kind, container):
            return [name, [encode(item, export) for item in container.__iter__(value)]]
    if issubclass(kind, dict):
        return ["dict", [[encode(k, export), encode(v, export)] for k, v in dict.items(value)]]
    if issubclass(kind, _LAZY) and kind.__module__ in ("builtins", "itertools"):
        return ["iterator", [encode(item, export) for item in itertools.islice(value, LAZY_LIMIT)]]
    if kind in (bytes, bytearray):
        return [kind.__name__, value.decode("latin-1")]
    if kind is complex:
        return ["complex", [value.real, value.imag]]
    if kind is range:
        return ["range", [value.start, value.stop, value.step]]
    for name, (cls, text) in (_TEXTUAL | _DATES).items():
        if kind is cls:
            return [name, text(value)]
    if kind is type and getattr(builtins, value.__name__, None) is value:
        return ["type", value.__name__]
    return export(value)


def _scalar(scalar: type, value: Any) -> Any:
    if scalar is str:
        return str.__str__(value)
    number = scalar.__pos__(value)
    # JSON readers of Python refuse to turn long digits into numbers, which is quadratic
    return ["int", hex(number)] if scalar is int and number.bit_length() > 4096 else number


def decode(data: Any, imported: Callable[[str, Any], Any]) -> Any:
    """The value that `encode` wrote; `imported` makes what crossed by `export`. Builds plain types, runs nothing."""
    if not isinstance(data, list):
        return data
    name, content = data
    if name in _CONTAINERS:
        return _CONTAINERS[name](decode(item, imported) for item in content)
    if name == "dict":
        return {decode(k, imported): decode(v, imported) for k, v in content}
    if name == "iterator":
        return iter([decode(item, imported) for item in content])
    if name == "int":
        return int(content, 16)
    if name in ("bytes", "bytearray"):
        raw = content.encode("latin-1")
        return raw if name == "bytes" else bytearray(raw)
    if name == "complex":
        return complex(*content)
    if name == "range":
        return range(*content)
    if name in _TEXTUAL:
        return _TEXTUAL[name][0](content)
    if name in _DATES:
        return _DATES[name][0].fromisoformat(content)
    if name == "type":
        return getattr(builtins, content)
    return imported(name, content)


def quote(error: BaseException) -> str:
    """An exception in one short line, without running anything that a program could have overridden on purpose."""
    try:
        text = str(error)
    except BaseException:
        text = "?"
    return f"{type(error).__name__}: {text}"[:500]
