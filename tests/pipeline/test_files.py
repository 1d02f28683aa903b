"""Rows on disk: whatever text a model or a data set brings."""

from thinkery.pipeline.files import append_row, read_rows, write_file, zipped


def test_half_a_surrogate_pair_is_written_as_a_replacement_character(tmp_path):
    row = {"text": "broken \ud83d and whole 😀", "n": 1}
    append_row(tmp_path / "rows.jsonl", row)
    write_file(tmp_path / "rows.jsonl.gz", zipped([row], 1))
    read = {"text": "broken \ufffd and whole 😀", "n": 1}
    assert list(read_rows(tmp_path / "rows.jsonl")) == [read]
    assert list(read_rows(tmp_path / "rows.jsonl.gz")) == [read]
