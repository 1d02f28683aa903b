"""Conversations as JSONL: what is written can be read, what is wrong is named with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from thinkery.core import Message
from thinkery.data.conversations import Conversation, from_row, read, to_row
from thinkery.errors import InputError

TALK = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "2+2?"),
        Message("assistant", "4", thought="Two and two."),
        Message("user", "谢谢"),
        Message("assistant", "不客气"),
    ),
    source="toy",
    task_id="7",
    kind="math",
    language="en",
    meta={"stage": "cold"},
)
USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def test_a_conversation_survives_its_row() -> None:
    assert from_row(json.loads(json.dumps(to_row(TALK)))) == TALK


@pytest.mark.parametrize("name", ["talk.jsonl", "talk.jsonl.gz"])
def test_files_are_read_line_by_line(tmp_path: Path, name: str) -> None:
    text = json.dumps(to_row(TALK), ensure_ascii=False) + "\n\n" + json.dumps({"messages": [USER, ASSISTANT]}) + "\n"
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write(text)
    assert list(read(tmp_path / name)) == [TALK, Conversation((Message("user", "Hi"), Message("assistant", "Hello")))]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([], "must be a JSON object (found list)"),
        ({"text": "hi"}, "unknown field 'text'"),
        ({}, '"messages" must be a list'),
        ({"messages": []}, '"messages" must be a list'),
        ({"messages": ["hi"]}, "message 1: a message must be an object (found str)"),
        (
            {"messages": [{"role": "bot", "content": ""}]},
            "message 1: \"role\" must be system, user or assistant (found 'bot')",
        ),
        ({"messages": [USER, {"role": "assistant"}]}, 'message 2: "content" must be a string (found NoneType)'),
        ({"messages": [{**USER, "thought": "hm"}, ASSISTANT]}, 'message 1: "thought" is a string'),
        ({"messages": [USER]}, "turns must go user, assistant"),
        ({"messages": [USER, USER, ASSISTANT]}, "(found user, user, assistant)"),
        ({"messages": [ASSISTANT, USER]}, "(found assistant, user)"),
        ({"messages": [USER, ASSISTANT], "language": 3}, '"language" must be a string (found int)'),
        ({"messages": [USER, ASSISTANT], "meta": "x"}, '"meta" must be an object (found str)'),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, row: Any, problem: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": [USER, ASSISTANT]}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError) as caught:
        list(read(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert problem in str(caught.value)


def test_broken_json_and_missing_files_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"messages": [}\n')
    with pytest.raises(InputError, match=r"talk\.jsonl:1: not valid JSON \(found Expecting value at column 15\)"):
        list(read(path))
    with pytest.raises(InputError, match="cannot read conversations"):
        list(read(tmp_path / "nowhere.jsonl"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"messages": 1}\n' * 100)[:20])
    with pytest.raises(InputError, match="cannot read conversations"):
        list(read(tmp_path / "cut.jsonl.gz"))


def test_a_mark_of_order_at_the_beginning_is_not_read(tmp_path):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\n")
    assert len(list(read(tmp_path / "d.jsonl"))) == 1
