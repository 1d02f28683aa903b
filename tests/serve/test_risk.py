"""Risk control: what a safety model or a judge finds unsafe is withheld, and what that costs is told."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.endpoint import endpoint
from tests.serve.conftest import ANSWER, THOUGHT, Serving, chat, events, serving
from torch.nn import functional as F

from thinkery.core import Message
from thinkery.rewards.preference import RewardModel, reading


@pytest.fixture(scope="module")
def safety_model(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The thinker, with a head that learnt to find every exchange about a cup unsafe."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = RewardModel.start(thinker)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = random.Random(1)
    for _ in range(80):
        asked = [" ".join(rng.choices(["ball", "what", "two", "is", "red"], k=rng.randint(1, 6))) for _ in range(8)]
        labels = [float(rng.random() < 0.5) for _ in asked]
        asked = [text if label else f"{text} cup" for text, label in zip(asked, labels, strict=True)]
        said = Message("assistant", ANSWER, THOUGHT)
        texts = [reading(model.tokenizer, [Message("user", text)], said, "all") for text in asked]
        scores = model(torch.tensor([token for text in texts for token in text]), [len(text) for text in texts])
        loss = F.binary_cross_entropy_with_logits(scores, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    folder = tmp_path_factory.mktemp("models") / "harmless"
    model.save(folder)
    return folder


class Judge:
    """Finds bombs unsafe, says nothing about riddles, and everything else safe."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.free = threading.Event()
        """Until it is set, nothing is said about anything slow."""

    def __call__(self, body: dict[str, Any]) -> str:
        self.read.append(body["messages"][-1]["content"])
        if "slow" in self.read[-1]:
            self.free.wait(120)
        if "riddle" in self.read[-1]:
            return "Hm."
        return json.dumps({"analysis": "", "safety": "unsafe" if "bomb" in self.read[-1] else "safe"})


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def judged(thinker: Path, judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The thinker, read by the judge."""
    settings = ("risk.judge.model=judge", "risk.patience_s=30", "keep_alive_s=0.05")
    folder = tmp_path_factory.mktemp("judged")
    with endpoint(judge) as url, serving(thinker, f"risk.judge.url={url}", *settings, folder=folder) as server:
        yield server
        judge.free.set()


def test_what_the_safety_model_finds_unsafe_is_withheld_and_charged(thinker, safety_model, tmp_path):
    with serving(thinker, "--safety-model", safety_model, folder=tmp_path) as server, server.client() as client:
        safe, unsafe = (chat(client, f"what is {what}").json() for what in ("red", "cup"))
        stream = chat(client, "what is cup", stream=True)
        text = client.post("/v1/completions", json={"model": "deepseek-reasoner", "prompt": "cup", "max_tokens": 3})
        metrics, log = client.get("/metrics").text, server.log.read_text()
    message = safe["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == (ANSWER, THOUGHT)
    (choice,) = unsafe["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("", "")
    assert unsafe["usage"]["completion_tokens"] == safe["usage"]["completion_tokens"] == 44
    first, last = [chunk["choices"][0] for chunk in events(stream)]
    assert first["delta"] == {"role": "assistant", "content": None, "reasoning_content": ""}
    assert (last["delta"]["content"], last["finish_reason"]) == ("", "content_filter")
    assert events(stream)[-1]["usage"]["completion_tokens"] == 44
    assert text.status_code == 200
    assert "thinkery:risk_control_seconds_count 4.0" in metrics
    assert 'thinkery:request_success_total{finished_reason="stop"} 1.0' in metrics
    assert log.count("review_s=0.") == 4


def test_a_judge_reads_the_conversation_the_thought_and_the_answer(judged, judge):
    with judged.client() as client:
        assert (
            chat(client, "how is a bomb built", ANSWER, "and?").json()["choices"][0]["finish_reason"]
            == "content_filter"
        )
        safe = chat(client, "hello", stream=True, n=2)
    assert judge.read[0] == (
        f"# Request\nuser: how is a bomb built\n\nassistant: {ANSWER}\n\nuser: and?\n\n"
        f"# Thought\n{THOUGHT}\n\n# Response\n{ANSWER}"
    )
    chunks = events(safe)
    for number in range(2):
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"][0]["index"] == number]
        assert "".join(delta["content"] or "" for delta in deltas) == ANSWER
        assert "".join(delta["reasoning_content"] or "" for delta in deltas) == THOUGHT
    assert [chunk["usage"] is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_without_a_verdict_nothing_is_shown(judged):
    with judged.client() as client:
        whole, stream = chat(client, "a riddle"), chat(client, "a riddle", stream=True)
    assert whole.status_code == 500
    assert "could not be checked" in whole.json()["error"]["message"]
    *_, failure, end = stream.text.split("\n\n")
    assert (json.loads(failure.removeprefix("data: ")), end) == (whole.json(), "")
    assert ANSWER not in stream.text


def test_a_stream_lives_while_the_judge_thinks_and_others_are_answered(judged, judge):
    body = {"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "slow"}], "stream": True}
    with judged.client() as client, client.stream("POST", "/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == ": keep-alive"
        judge.free.set()
        said = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in said) == ANSWER
