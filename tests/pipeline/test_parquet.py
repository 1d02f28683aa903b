"""Shards as Parquet: the rows that were written come back, other programs see columns, and a kill changes no byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thinkery.cli.main import main
from thinkery.errors import InputError
from thinkery.pipeline import dataset
from thinkery.pipeline.artifact import Dataset
from thinkery.pipeline.files import write_json
from thinkery.pipeline.run import Run
from thinkery.tasks.files import read_rows

parquet = pytest.importorskip("thinkery.pipeline.parquet", reason="thinkery[parquet] is not installed")
pq = pytest.importorskip("pyarrow.parquet")

SAID = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "thought": "Two and two."}]
ROWS = [
    {"messages": SAID, "source": "mine", "language": None, "meta": {}, "n": 1},
    {"messages": SAID[:1], "source": "你好", "language": "zh", "meta": {"a": [1, "b"]}, "n": 2, "late": True},
    {"messages": [], "source": "", "language": None, "meta": {"b": {"c": None}}, "n": 2**40},
]


def made(folder: Path, rows: list[dict], *, shards: str = "parquet", first: int = 0) -> Dataset:
    """A dataset of rows, of which the first few were written by an attempt that was killed."""
    run = Run(folder, "corpus")
    for part in (rows[:first], rows[first:]):
        writer = run.dataset(shards)  # type: ignore[arg-type]
        for row in part:
            writer.add(row, row["source"] + str(row["n"]).zfill(8))
    made = writer.finish()
    write_json(run.dir / "artifact.json", made.manifest)
    return made


def test_rows_come_back_as_they_were_and_in_the_order_of_their_keys(tmp_path):
    found = list(made(tmp_path / "p", ROWS).rows())
    as_json = list(made(tmp_path / "j", ROWS, shards="jsonl").rows())
    assert [row["n"] for row in found] == [row["n"] for row in as_json] == [2**40, 1, 2]
    assert found == as_json


def test_other_programs_see_columns_and_json_where_rows_disagree(tmp_path):
    folder = made(tmp_path, ROWS).folder
    table = pq.read_table(folder / "00000.parquet")
    assert str(table.schema.field("n").type) == "int64"
    kind = table.schema.field("messages").type.value_type
    assert {field.name: str(field.type) for field in kind} == dict.fromkeys(["role", "content", "thought"], "string")
    assert table.column("messages").to_pylist()[1] == [{**SAID[0], "thought": None}, SAID[1]]
    assert [json.loads(text) for text in table.column("meta").to_pylist()] == [{"b": {"c": None}}, {}, {"a": [1, "b"]}]


def test_a_killed_dataset_has_the_bytes_of_one_in_one_go_and_every_shard_one_schema(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_ROWS", 2)
    whole, killed = made(tmp_path / "whole", ROWS), made(tmp_path / "killed", ROWS, first=2)
    assert whole.manifest["content"] == killed.manifest["content"]
    files = sorted(whole.folder.iterdir())
    assert [file.name for file in files] == ["00000.parquet", "00001.parquet"]
    assert pq.read_schema(files[0]).equals(pq.read_schema(files[1]), check_metadata=True)
    whole.verify()
    assert len(list(whole.rows())) == 3


def test_a_file_is_read_by_and_by_and_its_rows_are_named(tmp_path, capsys):
    file = made(tmp_path / "d", ROWS).folder / "00000.parquet"
    assert [where for where, _ in read_rows(file)] == [f"{file}: row {n}" for n in (1, 2, 3)]
    assert main(["data", "inspect", str(tmp_path / "d"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    many = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(2500)]
    path = tmp_path / "many.parquet"
    path.write_bytes(parquet.shard(many, parquet.schema_of(many)))
    assert next(iter(parquet.read_rows(path))) == many[0]
    assert main(["data", "inspect", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["gradable"]) == (2500, 2500)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"many\.parquet: not a Parquet file"):
        list(parquet.read_rows(path))


def test_types_that_do_not_fit_together_become_json():
    for values in ([1, "a"], [[1], {"a": 1}], [{"a": 1}, {"a": "b"}], [2**70], [{}]):
        schema = parquet.schema_of([{"x": value} for value in values])
        assert parquet.note_of(schema)["json"] == ["x"]
    keys_are_data = parquet.schema_of([{"x": {f"k{n}": 1 for n in range(65)}}])
    assert parquet.note_of(keys_are_data)["json"] == ["x"]
