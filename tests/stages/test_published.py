"""Published preferences as rows that reward models train on, and the editor that nobody is."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkery.data.decontaminate import Index
from thinkery.pipeline.run import Run
from thinkery.stages.published import PublishedLabels, PublishedPairs, published_labels, published_pairs
from thinkery.stages.roles import Editor, editor_of
from thinkery.tasks.public import HARMLESS_SPLIT, data_root, general, may_learn

TOO_CLOSE = "dropped: shares ten words with the evaluation half"
needs_data = pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set")


@needs_data
def test_published_pairs_are_conversations_with_a_chosen_and_a_rejected_answer(tmp_path: Path) -> None:
    data = published_pairs(Run(tmp_path / "pairs", "pairs"), PublishedPairs(limit=30, max_characters=1000))
    rows = list(data.rows())
    dropped = 30 - len(rows)
    assert data.funnel == {"pairs": 30, "dropped: for the balance of lengths": dropped, "kept": len(rows)}
    assert 0 < dropped < 20
    longer = [len(row["chosen"]["content"]) - len(row["rejected"]["content"]) for row in rows]
    assert sum(by > 0 for by in longer) == sum(by < 0 for by in longer)
    for row in rows:
        assert row["messages"][-1]["role"] == "user"
        assert row["chosen"]["content"] != row["rejected"]["content"]
        assert max(len(row[side]["content"]) for side in ("chosen", "rejected")) <= 1000


@needs_data
def test_published_labels_come_in_pairs_of_safe_and_unsafe_from_the_half_for_learning(tmp_path: Path) -> None:
    data = published_labels(Run(tmp_path / "labels", "labels"), PublishedLabels(limit=40))
    rows = list(data.rows())
    assert data.funnel == {"safe": 20, "unsafe": 20, TOO_CLOSE: 2}
    assert data.meta == {"split": HARMLESS_SPLIT}
    assert [row["label"] for row in rows[:4]] == [1, 0, 1, 0]
    for safe, unsafe in zip(rows[::2], rows[1::2], strict=True):
        assert safe["messages"][:-1] == unsafe["messages"][:-1]
        assert safe["messages"][-1]["role"] == "assistant"
        assert may_learn(safe["messages"][0]["content"])


@needs_data
def test_no_question_of_a_label_shares_ten_words_with_the_half_for_evaluation(tmp_path: Path) -> None:
    data = published_labels(Run(tmp_path / "labels", "labels"), PublishedLabels())
    exam = Index.of(general("test"))
    assert data.funnel[TOO_CLOSE] == 17
    assert data.funnel["safe"] == data.funnel["unsafe"] > 1000
    asked = {m["content"] for row in data.rows() for m in row["messages"] if m["role"] == "user"}
    assert not any(map(exam.match, asked))


def test_without_an_editor_a_sample_stays_as_it_is() -> None:
    with editor_of(Editor(who="none"), None) as edit:
        (edited,) = edit([("What is 6 * 4?", "6 * 4 = 24.", "<answer> 24 </answer>", "en")])
    assert edited is not None
    assert (edited.thought, edited.answer) == ("6 * 4 = 24.", "<answer> 24 </answer>")
