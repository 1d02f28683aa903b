"""Rows on disk: whatever text a model or a data set brings."""

import subprocess
import sys
from contextlib import suppress

from thinkery.pipeline.files import append_row, read_rows, write_file, write_folder, zipped

REMOVAL = """
import sys
from pathlib import Path
from thinkery.pipeline.files import remove_folder
print("ready", flush=True)
remove_folder(Path(sys.argv[1]))
"""


def test_half_a_surrogate_pair_is_written_as_a_replacement_character(tmp_path):
    row = {"text": "broken \ud83d and whole 😀", "n": 1}
    append_row(tmp_path / "rows.jsonl", row)
    write_file(tmp_path / "rows.jsonl.gz", zipped([row], 1))
    read = {"text": "broken \ufffd and whole 😀", "n": 1}
    assert list(read_rows(tmp_path / "rows.jsonl")) == [read]
    assert list(read_rows(tmp_path / "rows.jsonl.gz")) == [read]


def test_a_folder_whose_removal_is_killed_is_gone_under_its_name(tmp_path):
    folder = tmp_path / "step-000007"
    folder.mkdir()
    for number in range(20_000):
        (folder / str(number)).touch()
    whole = folder.stat().st_mtime_ns
    with subprocess.Popen([sys.executable, "-c", REMOVAL, folder], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with suppress(FileNotFoundError):
            while folder.stat().st_mtime_ns == whole:
                pass
        process.kill()
    assert not folder.exists()


def test_a_folder_that_is_written_leaves_its_neighbours_alone(tmp_path):
    for name in ("mine.old", "mine.tmp"):
        (tmp_path / name).mkdir()
    for text in ("first", "second"):
        write_folder(tmp_path / "mine", lambda folder, text=text: (folder / "text").write_text(text))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.old", "mine.tmp"]
    assert (tmp_path / "mine" / "text").read_text() == "second"
