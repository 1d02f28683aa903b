"""Distilling from an OpenAI-style endpoint: a real HTTP server that solves the world's sums and charges for it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from thinkery.core import Task
from thinkery.engine.http import HttpConfig
from thinkery.errors import RunFailed
from thinkery.pipeline.artifact import Dataset, task_to_row
from thinkery.pipeline.dataset import DatasetWriter
from thinkery.pipeline.run import Run
from thinkery.stages.curate import SPENT, Curate, curate
from thinkery.tasks.templates import put_one
from thinkery.tasks.world import problems


def solve(question: str) -> tuple[str, int]:
    """(thought, result) of an English chain."""
    total = int(re.findall(r"Start with (\d+)", question)[0])
    lines = []
    for word, n in re.findall(r"(Add|Take) (\d+)", question):
        after = total + int(n) if word == "Add" else total - int(n)
        lines.append(f"{total} {'plus' if word == 'Add' else 'minus'} {n} is {after}.")
        total = after
    return " ".join(lines), total


class Teacher(BaseHTTPRequestHandler):
    """Thinks in `reasoning_content`, answers in a box, and is wrong about results that end in 7."""

    def do_POST(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        thought, total = solve(body["messages"][-1]["content"])
        answer = total if total % 10 != 7 else total + 1
        message = {"role": "assistant", "reasoning_content": thought, "content": f"The answer is \\boxed{{{answer}}}."}
        reply = json.dumps({
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 100},
        }).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def teacher() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    server.asked = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def asked(folder: Path, count: int) -> tuple[Dataset, list[Task]]:
    writer = Run(folder, "problems").dataset()
    tasks = [t for t in problems("train", 3, 4 * count, kinds=("chain",)) if t.language == "en"][:count]
    for n, task in enumerate(tasks):
        writer.add(task_to_row(task), f"{n:04d}")
    return writer.finish(), tasks


def settings(server: ThreadingHTTPServer, max_cost: float | None) -> Curate:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    endpoint = HttpConfig(url=url, model="teacher", price_in=1000, price_out=1000, max_cost=max_cost, concurrency=4)
    return Curate(samples=1, chunk=4, endpoint=endpoint, sampling={"max_tokens": 200})  # type: ignore[arg-type]


def test_right_answers_become_conversations_and_wrong_ones_are_counted(
    teacher: ThreadingHTTPServer, tmp_path: Path
) -> None:
    data, tasks = asked(tmp_path / "tasks", 12)
    corpus = curate(Run(tmp_path / "corpus", "corpus"), settings(teacher, None), data)
    right = [task for task in tasks if not str(task.gold).endswith("7")]
    rows = list(corpus.rows())
    assert [row["task_id"] for row in rows] == [task.id for task in right]
    assert rows[0]["messages"][-1]["thought"] == solve(right[0].prompt)[0]
    assert corpus.funnel["kept: reasoning"] == len(right)
    assert corpus.funnel.get("dropped: wrong", 0) == len(tasks) - len(right)
    assert corpus.funnel[SPENT] == 12 * 200 * 1000  # 200 tokens each, 1,000 a million, in millionths


def test_questions_are_written_in_the_words_they_draw_and_asked_in_their_own(
    teacher: ThreadingHTTPServer, tmp_path: Path
) -> None:
    data, tasks = asked(tmp_path / "tasks", 12)
    words = ("Hello. {question}", "{question} Thank you.")
    corpus = curate(
        Run(tmp_path / "corpus", "corpus", seed=5),
        settings(teacher, None).model_copy(update={"templates": words}),
        data,
    )
    written = {row["task_id"]: row["messages"][0]["content"] for row in corpus.rows()}
    drawn = {task.id: put_one(task, words, 5).prompt for task in tasks}
    assert written.items() <= drawn.items()
    assert {text.startswith("Hello. ") for text in written.values()} == {True, False}


def test_the_budget_holds_over_attempts_and_nothing_is_asked_twice(
    teacher: ThreadingHTTPServer, tmp_path: Path
) -> None:
    data, _ = asked(tmp_path / "tasks", 12)
    with pytest.raises(RunFailed, match="max_cost"):
        curate(Run(tmp_path / "corpus", "corpus"), settings(teacher, 2.0), data)
    paid_for = teacher.asked  # type: ignore[attr-defined]
    assert 4 <= paid_for <= 10
    assert Run(tmp_path / "corpus", "corpus").dataset().funnel[SPENT] == paid_for * 200_000 <= 2_000_000
    with pytest.raises(RunFailed, match="max_cost"):
        curate(Run(tmp_path / "corpus", "corpus"), settings(teacher, 2.0), data)
    assert teacher.asked == paid_for  # type: ignore[attr-defined]
    corpus = curate(Run(tmp_path / "corpus", "corpus"), settings(teacher, 10.0), data)
    assert corpus.funnel[SPENT] == teacher.asked * 200_000  # type: ignore[attr-defined]


def test_a_chunk_that_was_recorded_is_not_asked_again_after_a_kill_among_its_rows(
    teacher: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, tasks = asked(tmp_path / "tasks", 12)
    cfg = settings(teacher, None).model_copy(update={"samples": 4, "keep": 1, "chunk": 12})
    add, written = DatasetWriter.add, 0

    def dying(writer: DatasetWriter, row: dict, key: str) -> None:
        nonlocal written
        written += 1
        if written == 5:
            raise SystemExit
        add(writer, row, key)

    monkeypatch.setattr(DatasetWriter, "add", dying)
    with pytest.raises(SystemExit):
        curate(Run(tmp_path / "corpus", "corpus"), cfg, data)
    monkeypatch.undo()
    corpus = curate(Run(tmp_path / "corpus", "corpus"), cfg, data)
    assert teacher.asked == 48  # type: ignore[attr-defined]
    right = [task.id for task in tasks if not str(task.gold).endswith("7")]
    assert [row["task_id"] for row in corpus.rows()] == right
    whole = curate(Run(tmp_path / "whole", "corpus"), cfg, data)
    assert (list(whole.rows()), whole.funnel) == (list(corpus.rows()), corpus.funnel)
