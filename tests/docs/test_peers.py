"""What the side-by-side benchmark gives its contenders, and what it keeps of them."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from bench.peers.__main__ import EQUAL, LLAMACPP, LLAMACPP_EXACT, OPENVINO, OPENVINO_EXACT, QUANTISED, Reader
from bench.peers.gguf import written
from bench.peers.match import Entry
from bench.peers.work import WORKS
from bench.peers.worker import told
from gguf.quants import dequantize

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
