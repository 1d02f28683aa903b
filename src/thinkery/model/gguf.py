"""A .gguf file of the Llama family, as llama.cpp uses them, made into a Hugging Face folder.

transformers reads the numbers (quantised weights come out in float32, exactly as quantised); what it loses,
the way the text is cut before byte-pair encoding, is restored here from the file's own declaration.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import PreTokenizer

from thinkery.errors import EnvironmentLacks, InputError
from thinkery.model.hf import empty, require_room, save_model, shape_from_config
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.model.weights import fill

if TYPE_CHECKING:
    from gguf import GGUFReader

ARCHITECTURES = ("llama",)
_DAMAGED = "the file is damaged or something else: copy or download it again"


def convert(path: str | Path, folder: str | Path) -> None:
    """Write the model, tokenizer and chat template of a .gguf file as a Hugging Face folder.

    Raises InputError for an architecture other than Llama's, EnvironmentLacks without the `gguf` package.
    """
    path = Path(path)
    reader = _reader(path)
    header = _header(reader)
    _check_architecture(path, header)
    numbers = sum(int(tensor.n_elements) for tensor in reader.tensors)
    require_room(2 * numbers, where=str(path))  # once as transformers reads it, once as ours
    network = _network(path)
    save_model(folder, network, _tokenizer(path, header), card=_card(path, header))


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer and chat template of a .gguf file alone."""
    path = Path(path)
    header = _header(_reader(path))
    _check_architecture(path, header)
    return _tokenizer(path, header)


def read_shape(path: Path) -> Shape:
    """The shape that the header declares, without reading the weights."""
    reader = _reader(path)
    header = _header(reader)
    _check_architecture(path, header)
    try:
        width, heads = header["llama.embedding_length"], header["llama.attention.head_count"]
        return Shape(
            family="llama",
            vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
            hidden_size=width,
            intermediate_size=header["llama.feed_forward_length"],
            num_hidden_layers=header["llama.block_count"],
            num_attention_heads=heads,
            num_key_value_heads=header.get("llama.attention.head_count_kv", heads),
            head_dim=width // heads,
        )
    except KeyError as error:
        raise InputError(
            "the file's header is not whole", where=str(path), found=f"no {error}", hint=_DAMAGED
        ) from None


def _reader(path: Path) -> GGUFReader:
    """The file, opened."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise EnvironmentLacks(
            "reading .gguf files needs the gguf package", where=str(path), hint="pip install gguf"
        ) from error
    if not path.is_file():
        raise InputError("no such file", where=str(path))
    try:
        return GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise InputError("not a GGUF file", where=str(path), found=str(error), hint=_DAMAGED) from error


def _header(reader: GGUFReader) -> dict[str, Any]:
    """The scalar and text fields of the file."""
    fields = reader.fields
    return {name: field.contents() for name, field in fields.items() if len(field.data) == 1}


def _check_architecture(path: Path, header: dict[str, Any]) -> None:
    architecture = header.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise InputError(
            "only GGUF files of the Llama family are read",
            where=str(path),
            found=f"architecture {architecture!r}",
            hint="take the model's safetensors folder instead",
        )


def _network(path: Path) -> Transformer:
    from transformers import AutoModelForCausalLM

    from thinkery.model.adapter import quiet

    with quiet(), redirect_stderr(io.StringIO()):  # its bar over GGUF tensors knows no switch
        source = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = source.config.to_dict()
    config.pop("quantization_config", None)
    config["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")  # stored as float32: 9.9999997e-06
    network = empty(shape_from_config(config))
    names = dict(network.named_parameters())
    fill(network, {name: tensor for name, tensor in source.state_dict().items() if name in names}, where=str(path))
    return network


def _tokenizer(path: Path, header: dict[str, Any]) -> Tokenizer:
    from transformers import AutoTokenizer

    from thinkery.model.adapter import quiet

    try:
        with quiet():
            source = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, KeyError) as error:
        found = str(error).strip().splitlines()[0]
        raise InputError("transformers cannot read the file's tokenizer", where=str(path), found=found) from error
    backend = Backend.from_str(source.backend_tokenizer.to_str())
    if header.get("tokenizer.ggml.model") == "gpt2":
        backend.pre_tokenizer = _pre_tokenizer(path, header.get("tokenizer.ggml.pre", "default"))
    return Tokenizer(
        backend,
        eos=source.eos_token or "",
        bos=source.bos_token or "",
        pad=source.pad_token or "",
        template=source.chat_template,
    )


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
"""llama.cpp's names for how a text is cut into words, with the equivalent of the tokenizers library."""


def _pre_tokenizer(path: Path, name: str) -> PreTokenizer:
    if name not in PRE_TOKENIZERS:
        raise InputError(
            "the file cuts text in a way that is not supported",
            where=str(path),
            found=f"tokenizer.ggml.pre {name!r}",
            hint="take the model's safetensors folder instead",
        )
    return PRE_TOKENIZERS[name]()


def _card(path: Path, header: dict[str, Any]) -> str:
    name = header.get("general.name", path.stem)
    licence = header.get("general.license", "not stated")
    return f"# {name}\n\nConverted from `{path.name}` to float32 by Thinkery. Licence of the original: {licence}.\n"
