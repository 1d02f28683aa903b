"""The contract on the wire: fields, streams, errors with their words, the three profiles."""

from __future__ import annotations

from tests.serve.conftest import ANSWER, THOUGHT, chat, events


def test_an_answer_has_the_fields_of_the_api(client):
    data = chat(client, "what is red").json()
    assert data["choices"][0]["message"] == {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}


def test_a_stream(client):
    found = events(chat(client, "what is red", stream=True))
    assert len(found) > 5
