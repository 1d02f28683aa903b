"""Conversations to learn from: JSONL rows in, checked line by line, and rows out.

    {"messages": [{"role": "user", "content": "2+2?"},
                  {"role": "assistant", "thought": "Two and two.", "content": "4"}],
     "source": "mine", "task_id": "7", "kind": "math", "language": "en", "meta": {}}

Only `messages` is required: an optional system message, then user and assistant in turn, the assistant last.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from thinkery.core import Message, Role
from thinkery.errors import InputError
from thinkery.tasks.files import open_text

_FIELDS = {"messages", "source", "task_id", "kind", "language", "meta"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages that end with an assistant's turn, and where they came from; `meta` must survive JSON."""

    messages: tuple[Message, ...]
    source: str = ""
    task_id: str = ""
    kind: str = "general"
    language: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def to_row(conversation: Conversation) -> dict[str, Any]:
    """A conversation as a JSON object; `from_row` turns it back into an equal one."""
    return {
        "messages": [_message_row(message) for message in conversation.messages],
        "source": conversation.source,
        "task_id": conversation.task_id,
        "kind": conversation.kind,
        "language": conversation.language,
        "meta": dict(conversation.meta),
    }


def from_row(row: Any, where: str = "conversation") -> Conversation:
    """The conversation in a JSON object; an InputError that begins with `where` says what is wrong with it."""
    if not isinstance(row, dict):
        raise InputError("a conversation must be a JSON object", where=where, found=type(row).__name__)
    if unknown := sorted(set(row) - _FIELDS):
        raise InputError(
            f"unknown field {unknown[0]!r}", where=where, hint=f"use {', '.join(sorted(_FIELDS))}; put the rest in meta"
        )
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InputError('"messages" must be a list with at least one message', where=where)
    turns = tuple(_message(message, f"{where}: message {i}") for i, message in enumerate(messages, 1))
    _check_order(turns, where)
    strings = {name: _string(row, name, where) for name in ("source", "task_id", "kind", "language")}
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise InputError('"meta" must be an object', where=where, found=type(meta).__name__)
    return Conversation(
        turns,
        strings["source"] or "",
        strings["task_id"] or "",
        strings["kind"] or "general",
        strings["language"],
        meta,
    )


def read(path: Path) -> Iterator[Conversation]:
    """The conversations of a JSONL file (also .gz), empty lines skipped; errors name the file and the line."""
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield from_row(_parse(line, f"{path}:{number}"), f"{path}:{number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError("cannot read conversations", where=str(path), found=str(error)) from error


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError("not valid JSON", where=where, found=f"{error.msg} at column {error.colno}") from error


def _message(row: Any, where: str) -> Message:
    if not isinstance(row, dict):
        raise InputError("a message must be an object", where=where, found=type(row).__name__)
    role, content, thought = row.get("role"), row.get("content"), row.get("thought")
    if role not in ("system", "user", "assistant"):
        raise InputError('"role" must be system, user or assistant', where=where, found=repr(role))
    if not isinstance(content, str):
        raise InputError('"content" must be a string', where=where, found=type(content).__name__)
    if thought is not None and (role != "assistant" or not isinstance(thought, str)):
        raise InputError('"thought" is a string, and only an assistant has one', where=where, found=repr(thought)[:80])
    return Message(cast(Role, role), content, thought)


def _check_order(messages: tuple[Message, ...], where: str) -> None:
    """System at most first, then user and assistant in turn, the assistant last."""
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or len(turns) % 2 or any(role != ("user", "assistant")[i % 2] for i, role in enumerate(turns)):
        raise InputError(
            "turns must go user, assistant, …, assistant, after at most one system message",
            where=where,
            found=", ".join(roles),
        )


def _string(row: dict[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f'"{name}" must be a string', where=where, found=type(value).__name__)
    return value


def _message_row(message: Message) -> dict[str, str]:
    row: dict[str, str] = {"role": message.role, "content": message.content}
    return row if message.thought is None else {**row, "thought": message.thought}
