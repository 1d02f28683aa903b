"""Published preferences as rows that reward models train on, and the editor that nobody is."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkery.pipeline.run import Run
from thinkery.stages.published import PublishedLabels, PublishedPairs, published_labels, published_pairs
from thinkery.stages.roles import Editor, editor_of
from thinkery.tasks.public import data_root, may_learn

needs_data = pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set")


@needs_data
def test_published_pairs_are_conversations_with_a_chosen_and_a_rejected_answer(tmp_path: Path) -> None:
    data = published_pairs(Run(tmp_path / "pairs", "pairs"), PublishedPairs(limit=5, max_characters=1000))
    rows = list(data.rows())
    assert data.funnel == {"kept": 5}
    assert len(rows) == 5
    for row in rows:
        assert row["messages"][-1]["role"] == "user"
        assert row["chosen"]["content"] != row["rejected"]["content"]
        assert max(len(row[side]["content"]) for side in ("chosen", "rejected")) <= 1000


@needs_data
def test_published_labels_come_in_pairs_of_safe_and_unsafe_from_the_half_for_learning(tmp_path: Path) -> None:
    data = published_labels(Run(tmp_path / "labels", "labels"), PublishedLabels(limit=40))
    rows = list(data.rows())
    assert data.funnel == {"safe": 20, "unsafe": 20}
    assert [row["label"] for row in rows[:4]] == [1, 0, 1, 0]
    for safe, unsafe in zip(rows[::2], rows[1::2], strict=True):
        assert safe["messages"][:-1] == unsafe["messages"][:-1]
        assert safe["messages"][-1]["role"] == "assistant"
        assert may_learn(safe["messages"][0]["content"])


def test_without_an_editor_a_sample_stays_as_it_is() -> None:
    with editor_of(Editor(who="none"), None) as edit:
        (edited,) = edit([("What is 6 * 4?", "6 * 4 = 24.", "<answer> 24 </answer>", "en")])
    assert edited is not None
    assert (edited.thought, edited.answer) == ("6 * 4 = 24.", "<answer> 24 </answer>")
