"""The cold-start editor: what it is shown, how its reply is read, what it changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from thinkery.core import Completion, Message
from thinkery.data.rewrite import Edited, EndpointEditor, diff, edit_messages, parse_reply
from thinkery.engine.base import Event, Request
from thinkery.errors import RunFailed


class Rules:
    """An engine whose model is a function of the conversation."""

    def __init__(self, reply: Callable[[Sequence[Message]], str]) -> None:
        self.reply = reply
        self.queue: list[Request] = []
        self.seeds: list[int] = []

    def submit(self, request: Request) -> str:
        self.queue.append(request)
        return str(len(self.queue))

    def step(self) -> list[Event]:
        id, request = str(len(self.queue)), self.queue.pop()
        self.seeds += request.seeds
        answer = self.reply(request.messages)
        return [Event(id, 0, completion=Completion(answer, answer=answer))]

    def cancel(self, id: str) -> None: ...

    def load_weights(self, weights: Mapping[str, Any], version: int) -> None: ...

    def release(self) -> None: ...


def tidy(messages: Sequence[Message]) -> str:
    thought = messages[-1].content.partition("# Thought\n")[2].partition("\n\n# Answer\n")[0]
    return "no" if "???" in thought else f"<thought>\nI see: {thought}\n</thought>\n<summary>\\boxed{{9}}</summary>"


def test_the_editor_sees_prompt_thought_answer_and_language_and_nothing_else() -> None:
    messages = edit_messages("7+5-3?", "12-3", "9", "zh")
    assert messages[0].role == "system"
    assert "language of the problem: zh" in messages[0].content
    assert "\\boxed{}" in messages[0].content
    assert [message.role for message in messages[1:]] == ["user", "assistant"] * 2 + ["user"]
    assert messages[-1].content == "# Problem (zh)\n7+5-3?\n\n# Thought\n12-3\n\n# Answer\n9"


def test_the_worked_examples_are_replies_that_can_be_read() -> None:
    examples = [m for m in edit_messages("?", "?", "?", "en") if m.role == "assistant"]
    assert len(examples) == 2
    assert all(parse_reply(Completion("", answer=message.content)) for message in examples)


@pytest.mark.parametrize(
    ("reply", "edited"),
    [
        ("<thought>\nI add.\n</thought>\n<summary>\n\\boxed{9}\n</summary>", Edited("I add.", r"\boxed{9}")),
        ("Sure! <thought>a</thought><summary>b</summary>", Edited("a", "b")),
        ("<thought>a</thought>", None),
        ("<thought> </thought><summary>b</summary>", None),
        ("<thought>a</thought><summary>b</summary>" * 2, None),
        ("<thought>a </think> b</thought><summary>c</summary>", None),
        ("", None),
    ],
)
def test_only_a_clean_reply_is_an_edit(reply: str, edited: Edited | None) -> None:
    assert parse_reply(Completion(reply, answer=reply)) == edited


def test_drafts_are_edited_in_order_and_failures_counted() -> None:
    engine = Rules(tidy)
    editor = EndpointEditor(engine)
    drafts = [("q", "one", "9", "en"), ("q", "???", "9", "en"), ("q", "two", "9", "en")]
    assert editor.batch(drafts) == [Edited("I see: one", r"\boxed{9}"), None, Edited("I see: two", r"\boxed{9}")]
    assert editor.failures == 1
    assert len(set(engine.seeds)) == 3
    assert editor(*drafts[0]) == Edited("I see: one", r"\boxed{9}")
    with pytest.raises(RunFailed, match="no <thought> and <summary>"):
        editor(*drafts[1])


def test_the_diff_shows_what_changed() -> None:
    assert diff("a\nb\nc", "a\nB\nc") == "--- before\n+++ after\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c"
    assert diff("same", "same") == ""
