"""What the side-by-side benchmark gives its contenders, and what it keeps of them."""

import io
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from bench.peers import __main__ as peers
from bench.peers.__main__ import (
    EQUAL,
    LLAMACPP,
    LLAMACPP_EXACT,
    OPENVINO,
    OPENVINO_EXACT,
    QUANTISED,
    Bench,
    Reader,
    faster,
    line,
    one_token_words,
)
from bench.peers.gguf import written
from bench.peers.match import Contender, Entry, Failed, Place
from bench.peers.work import WORKS, Material
from bench.peers.worker import Turns, told
from gguf.quants import dequantize

from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer

NUMBERS = np.array([[1.0, 1.00390625, -3.0, 0.0] * 8], dtype=np.float32)
"""The second is 1 + 2⁻⁸: halfway between two numbers of bfloat16, of which 1 is the even one; float16 has it."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with a matrix and a vector."""
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tensor("matrix", NUMBERS)
    writer.add_tensor("vector", NUMBERS[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("F32", 1.00390625), ("F16", 1.00390625), ("BF16", 1.0), ("Q8_0", 42 * 3 / 127), ("Q4_0", 3 * 3 / 8)],
)
def test_a_file_is_written_in_every_format_that_contenders_read(source: Path, kind: str, wanted: float) -> None:
    reader = gguf.GGUFReader(written(source, kind, source.parent))
    matrix, vector = (dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors)
    assert reader.tensors[0].tensor_type.name == kind
    assert matrix[0, 1] == pytest.approx(wanted, rel=1e-3 if kind.startswith("Q") else 0)
    assert vector.tolist() == NUMBERS[0].tolist()
    assert reader.fields["llama.block_count"].contents() == 1


def test_results_name_settings_and_no_folder() -> None:
    entry = Entry("llamacpp", ("file=/home/someone/model.F16.gguf", "flash=on", "libraries=/opt/llama/linux-x64"))
    assert entry.title == "llamacpp file=model.F16.gguf flash=on libraries=linux-x64"


@pytest.mark.parametrize(("tries", "exact"), [(OPENVINO, OPENVINO_EXACT), (LLAMACPP, LLAMACPP_EXACT)])
def test_what_reads_files_is_tried_at_equal_precision_and_quantised(
    tries: dict[str, tuple[tuple[str, ...], ...]], exact: tuple[str, tuple[str, ...]]
) -> None:
    reader = Reader("some", "Some", Path(), tries, exact, always=("threads=2",))
    files = {kind: f"model.{kind}.gguf" for kind in tries}
    assert reader.exact[0] in ("F32", *EQUAL)
    for formats in (EQUAL, QUANTISED):
        entries = reader.entries(files, formats)
        assert len(entries) == len(set(entries)) >= 1
        assert all(entry.settings[0].split(".")[1] in formats for entry in entries)
        assert all(entry.settings[-1] == "threads=2" for entry in entries)


def test_texts_are_reported_where_they_are_compared() -> None:
    assert told(WORKS["sample-8"], [[1, 2], [3]]) == {"tokens": 3}
    assert told(WORKS["greedy"], [[1, 2], [3]]) == {"tokens": 3, "texts": [[1, 2], [3]]}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The embedded base, on the CPU."""
    Material(str(locate("tiny")), one_token_words(Tokenizer.load(locate("tiny")))).save(tmp_path / "material.json")
    return Place(tmp_path / "material.json", 1)


def bench(place: Place, **settings: object) -> Bench:
    """One run of each contender."""
    out = place.material.parent / "rows.json"
    given = {"vllm": Path("/nowhere"), "readers": [], "files": {}, "out": out, "parameters": 10**6}
    return Bench(place, 1, 100.0, **(given | {"limits": {"bf16_gflops": 1.0, "read_gb_s": 1.0}} | settings))


def test_a_contender_that_fails_leaves_what_was_measured_of_the_other(place: Place) -> None:
    """There is no such setting: the worker says why it failed."""
    wrong = Entry("ours", ("quantization=int4",))
    mine, theirs, _ = bench(place).beside("sample-1", [wrong])
    assert isinstance(mine, Contender)
    assert isinstance(theirs, Failed)
    row = faster("sampling", 1.0, mine, theirs, [])
    assert row.ours == mine.report()["tokens_per_s"]
    assert row.ours > 0
    assert (row.peer, row.ratio, row.holds) == (None, None, False)
    assert row.failed.startswith("ours quantization=int4: ValidationError:")
    assert line(row).startswith("FAIL sampling: ")
    assert row.details["ours"]["runs"] == 1


def test_where_all_settings_of_a_peer_fail_ours_is_measured_all_the_same(place: Place) -> None:
    wrong = [Entry("ours", (f"quantization=int{bits}",)) for bits in (2, 4)]
    mine, theirs, tried = bench(place).beside("sample-1", wrong)
    assert isinstance(mine, Contender)
    assert str(theirs).startswith("ours quantization=int4")
    assert tried == []


def test_rows_that_fail_are_kept_and_end_the_command_with_1(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits cannot be measured on no device at all; the row says so, and the others are asked nevertheless."""
    nowhere = bench(Place(place.material, 1, "nowhere"))
    monkeypatch.setattr(peers, "prepared", lambda args: nowhere)
    monkeypatch.setattr("sys.argv", ["bench.peers", "same", "sample-1"])
    with pytest.raises(SystemExit) as ended:
        peers.main()
    assert ended.value.code == 1
    kept = json.loads(nowhere.out.read_text())["rows"]
    assert [(row["row"], row["ours"]) for row in kept] == [("same", None), ("sample-1", None)]
    assert all("roofline" in row["failed"] for row in kept)


def test_int8_and_huge_pages_play_on_the_cpu_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def beside(self: Bench, work: str, candidates: list[Entry], ours: Entry = peers.OURS) -> tuple:
        asked.extend(each.settings for each in (ours, *candidates))
        return Failed(ours, "not played"), Failed(candidates[0], "not played"), []

    monkeypatch.setattr(Bench, "beside", beside)
    there = Place(place.material, 1, "cuda")
    for name in ("sample-64", "sample-8", "grpo"):
        peers.ROWS[name](bench(there))
    assert not [settings for settings in asked if {"quantization=int8", "pages=huge"} & set(settings)]
    rows = [row.name for row in peers.ROWS["sample-64"](bench(place))]
    assert "sampling 64 in int8 beside bfloat16" in rows


def test_what_is_not_installed_has_no_version() -> None:
    assert peers.version("no-such-package") is None
    assert list(peers.versions()) == ["torch", "transformers", "trl", "accelerate"]


def test_where_trl_is_not_installed_ours_is_measured_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(Bench, "alone", lambda self, work, ours=peers.OURS: Failed(ours, work))
    found = {name: [row.name for row in peers.ROWS[name](bench(place))] for name in ("grpo", "grpo-uneven", "sft")}
    assert found == {
        "grpo": ["GRPO update", "GRPO update, peak memory"],
        "grpo-uneven": ["GRPO update of uneven lengths"],
        "sft": ["SFT, share of the matrix limit"],
    }


def test_on_a_gpu_the_clock_waits_and_memory_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's CUDA functions stood in for."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3_000_000_000)
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n1\n"))
    said = io.StringIO()
    Turns(said, "cuda").timed(lambda number: {"tokens": number})
    ready, *runs = map(json.loads, said.getvalue().splitlines())
    assert ready == {"ready": True}
    assert [(run["tokens"], run["peak_gb"]) for run in runs] == [(0, 3.0), (1, 3.0)]
    assert len(waited) == 4
