"""Tasks on their way into a dataset: nothing of the exam, and an exam asks nothing twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from thinkery.pipeline.artifact import Dataset
from thinkery.pipeline.run import Run
from thinkery.stages.collect import Collect, collect
from thinkery.tasks.fields import Fields
from thinkery.tasks.sources import Source


def chat(*said: str) -> dict:
    """A row that begins with the system's turn."""
    roles = ("system", *("user", "assistant") * 3)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]}


def source(path: Path, rows: Sequence[dict]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(source="jsonl", path=str(path))


def collected(folder: Path, cfg: Collect, exam: Dataset | None = None) -> Dataset:
    return collect(Run(folder, folder.name), cfg, exam)


def test_an_exam_asks_the_same_once_and_what_is_practised_may_recur(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n % 3} + 7?", "answer": str(n % 3 + 7)} for n in range(12)]
    sources = (source(tmp_path / "x.jsonl", rows),)
    exam = collected(tmp_path / "exam", Collect(sources=sources, purpose="exam"))
    assert exam.funnel == {"loaded": 12, "repeated": 9, "kept": 3}
    assert len({task.prompt for task in exam.tasks()}) == 3
    assert collected(tmp_path / "problems", Collect(sources=sources)).funnel == {"loaded": 12, "kept": 12}


def test_the_same_question_after_another_text_is_kept_in_an_exam(tmp_path: Path) -> None:
    rows = [chat(f"The number is {n}.", "Which number?", str(n)) for n in (1, 2, 3, 3)]
    exam = Collect(sources=(source(tmp_path / "x.jsonl", rows),), purpose="exam")
    assert collected(tmp_path / "exam", exam).funnel == {"loaded": 4, "repeated": 1, "kept": 3}


def test_general_prompts_of_the_world_may_recur(tmp_path: Path) -> None:
    drawn = Source(source="world-general", split="held-out", limit=60)
    exam = collected(tmp_path / "exam", Collect(sources=(drawn,), purpose="exam"))
    assert exam.funnel == {"loaded": 60, "kept": 60}
    assert len({task.prompt for task in exam.tasks()}) < 60


def test_a_question_of_the_exam_is_found_in_any_turn_and_other_texts_are_kept(tmp_path: Path) -> None:
    asked = "Which number is in the text?"
    held = [chat(f"The number is {n}.", asked, str(n)) for n in (1, 2)] + [
        {"question": "What is 3 + 4?", "answer": "7"}
    ]
    mine = [chat(f"The number is {n}.", asked, str(n)) for n in (2, 3, 4)]
    mine += [chat("Be brief.", "What is 3 + 4?", "7", f"And plus {n}?", str(7 + n)) for n in range(3)]
    mine += [chat("Be brief.", "What is 3 - 4?", "-1")]
    fields = Fields(messages="messages", kind="=exact")
    practised = source(tmp_path / "mine.jsonl", mine).model_copy(update={"fields": fields})
    first = source(tmp_path / "held.jsonl", held[:2])
    second = source(tmp_path / "sums.jsonl", held[2:])
    exam = collected(tmp_path / "exam", Collect(sources=(first, second), purpose="exam"))
    made = collected(tmp_path / "problems", Collect(sources=(practised,), ngram=0), exam)
    assert made.funnel == {"loaded": 7, "in the exam": 4, "kept": 3}
    assert {task.messages[0].content for task in made.tasks()} == {"The number is 3.", "The number is 4.", "Be brief."}
