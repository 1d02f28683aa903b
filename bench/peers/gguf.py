"""A .gguf file with the same weights in another number format: what OpenVINO and llama.cpp are given.

    path = written(Path("SmolLM2-135M-Instruct.Q4_1.gguf"), "F16", folder)

The weights are those of the file, exactly as quantised there, so that F32 loses nothing, F16 and BF16 next to
nothing, and every contender computes the same model; a coarser format is quantised once more.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

LEFT_OUT = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
"""Fields that the writer makes itself, or that say what is no longer true."""


def written(source: Path, kind: str, folder: Path) -> Path:
    """The file in that format, made once."""
    path = folder / f"{source.stem}.{kind}.gguf"
    if not path.exists():
        aside = path.with_suffix(".partial")
        write(source, gguf.GGMLQuantizationType[kind], aside)
        aside.rename(path)
    return path


def write(source: Path, kind: gguf.GGMLQuantizationType, path: Path) -> None:
    """Copy all fields; matrices get the format, vectors stay float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith(LEFT_OUT):
            part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=part)
    writer.add_file_type(int(gguf.LlamaFileType[f"{'ALL' if kind.name == 'F32' else 'MOSTLY'}_{kind.name}"]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in reader.tensors:
        numbers = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        to = kind if numbers.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(numbers, to), raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
