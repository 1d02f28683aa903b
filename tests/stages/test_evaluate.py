"""An exam of a recipe: written chunk by chunk, and continued with the very same result."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkery.core import Sampling
from thinkery.errors import Stopped
from thinkery.pipeline.artifact import Dataset, Model, Report, task_to_row
from thinkery.pipeline.files import read_rows
from thinkery.pipeline.run import Run
from thinkery.stages.evaluate import Evaluate, evaluate
from thinkery.stages.fetch import Fetch, fetch
from thinkery.tasks.sources import Source, load_tasks

SHORT = Evaluate(
    samples=2, sampling=Sampling(temperature=0.6, top_p=0.95, max_tokens=48), template="world-zero", chunk=8
)


@pytest.fixture
def base(tmp_path: Path) -> Model:
    return fetch(Run(tmp_path / "base", "base", seed=1), Fetch())


@pytest.fixture
def exam(tmp_path: Path) -> Dataset:
    """Problems and general prompts, twenty together."""
    sources = [Source(source=name, split="held-out", limit=10) for name in ("world", "world-general")]
    writer = Run(tmp_path / "exam", "exam", seed=1).dataset()
    for n, task in enumerate(load_tasks(sources, seed=1, purpose="exam")):
        writer.add(task_to_row(task), f"{n:04d}")
    return writer.finish()


def sit(folder: Path, base: Model, exam: Dataset, *, stop: bool = False) -> Report:
    run = Run(folder, "eval-base", seed=1)
    run.stopping = stop
    return evaluate(run, SHORT, base, exam)


def record(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("rollouts/*"))}


def test_an_exam_that_was_stopped_after_any_chunk_ends_with_the_same_bytes(tmp_path, base, exam):
    whole = sit(tmp_path / "whole", base, exam)
    assert list(record(whole.path)) == ["000000.jsonl.gz", "000008.jsonl.gz", "000016.jsonl.gz"]
    assert whole.data["metrics"]["pass@1"]["n"] == whole.data["metrics"]["general"]["n"] == 10
    folder = tmp_path / "stopped"
    for written in (1, 2):
        with pytest.raises(Stopped):
            sit(folder, base, exam, stop=True)
        assert len(record(folder)) == written
        times = {path.name: path.stat().st_mtime_ns for path in folder.glob("rollouts/*")}
    made = sit(folder, base, exam)
    assert record(folder) == record(whole.path)
    assert made.manifest["content"] == whole.manifest["content"]
    assert {name: (folder / "rollouts" / name).stat().st_mtime_ns for name in times} == times  # nothing asked again


def test_an_exam_in_which_many_answers_are_cut_rings(tmp_path, base, exam):
    run = Run(tmp_path / "short", "eval-base", seed=1)
    short = SHORT.model_copy(update={"sampling": Sampling(temperature=0.6, top_p=0.95, max_tokens=2)})
    assert evaluate(run, short, base, exam).data["metrics"]["truncated"]["value"] > 0.5
    rung = [row for row in read_rows(run.dir / "events.jsonl") if row["kind"] == "alarm"]
    assert [(row["alarm"], row["setting"]) for row in rung] == [("truncated", "evaluate.sampling.max_tokens")]
    sit(tmp_path / "long", base, exam)
    assert not (tmp_path / "long/events.jsonl").exists()


def test_other_chunks_end_where_recorded_ones_begin(tmp_path, base, exam):
    whole = sit(tmp_path / "whole", base, exam)
    folder = tmp_path / "mixed"
    (folder / "rollouts").mkdir(parents=True)
    (folder / "rollouts" / "000008.jsonl.gz").write_bytes(record(whole.path)["000008.jsonl.gz"])
    made = evaluate(Run(folder, "eval-base", seed=1), SHORT.model_copy(update={"chunk": 12}), base, exam)
    assert list(record(folder)) == ["000000.jsonl.gz", "000008.jsonl.gz", "000016.jsonl.gz"]
    assert made.data == whole.data


@pytest.mark.parametrize("left", ["nothing", "its beginning", "zeros"])
def test_a_chunk_whose_record_a_power_cut_has_torn_is_asked_again(tmp_path, base, exam, left):
    whole = sit(tmp_path / "whole", base, exam)
    written = record(whole.path)["000008.jsonl.gz"]
    folder = tmp_path / "torn"
    (folder / "rollouts").mkdir(parents=True)
    torn = {"nothing": b"", "its beginning": written[:200], "zeros": bytes(len(written))}[left]
    (folder / "rollouts" / "000008.jsonl.gz").write_bytes(torn)
    assert sit(folder, base, exam).data == whole.data
    assert record(folder) == record(whole.path)
