"""A .gguf file, as llama.cpp uses them, made into a Hugging Face folder.

Quantised weights come out in float32, exactly as quantised.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import PreTokenizer
from torch import Tensor

from thinkery.errors import InputError
from thinkery.model.gguf.layout import (
    CUTS,
    ENDS,
    FACTORS,
    NORMALIZERS,
    WHOLE_WORDS,
    halved,
    library,
    rotated_heads,
    scaling_of,
    tensor_names,
)
from thinkery.model.hf import FAMILIES, empty, require_room, save_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.model.weights import fill
from thinkery.pipeline.card import HEADER, front

_FOLDER_INSTEAD = "take the model's safetensors folder instead"
_DAMAGED = "the file is damaged or something else: copy or download it again"


def convert(path: str | Path, folder: str | Path) -> None:
    """Write the model, tokenizer and chat template of a .gguf file as a Hugging Face folder.

    Raises InputError for an architecture other than Llama, Qwen2 and Qwen3, EnvironmentLacks without `gguf`.
    """
    path = Path(path)
    reader = _reader(path)
    header = _header(reader)
    _check_architecture(path, header)
    require_room(sum(int(tensor.n_elements) for tensor in reader.tensors), where=str(path))
    network = _network(path, reader, header)
    save_model(folder, network, _tokenizer(path, reader, header), card=_card(path, header))


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer and chat template of a .gguf file alone."""
    path = Path(path)
    reader = _reader(path)
    header = _header(reader)
    _check_architecture(path, header)
    return _tokenizer(path, reader, header)


def read_shape(path: str | Path) -> Shape:
    """The shape that the header declares, without reading the weights."""
    path = Path(path)
    reader = _reader(path)
    header = _header(reader)
    _check_architecture(path, header)
    return _shape(path, header, {tensor.name: tensor for tensor in reader.tensors})


def _reader(path: Path) -> Any:
    gguf = library(str(path))
    if not path.is_file():
        raise InputError("no such file", where=str(path))
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise InputError("not a GGUF file", where=str(path), found=str(error), hint=_DAMAGED) from error


def _header(reader: Any) -> dict[str, Any]:
    """The scalar and text fields of the file."""
    return {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}


def _check_architecture(path: Path, header: Mapping[str, Any]) -> None:
    architecture = header.get("general.architecture")
    if architecture not in FAMILIES:
        raise InputError(
            f"only GGUF files of {', '.join(FAMILIES)} are read",
            where=str(path),
            found=f"architecture {architecture!r}",
            hint=_FOLDER_INSTEAD,
        )


def _network(path: Path, reader: Any, header: Mapping[str, Any]) -> Transformer:
    stored = {tensor.name: tensor for tensor in reader.tensors}
    shape = _shape(path, header, stored)
    network = empty(shape)
    names = tensor_names(shape, [name for name, _ in network.named_parameters()], str(path))
    fill(network, Stored(stored, {theirs: ours for ours, theirs in names.items()}, shape), where=str(path))
    return network


def _shape(path: Path, header: Mapping[str, Any], stored: Mapping[str, Any]) -> Shape:
    family = header["general.architecture"]

    def number(name: str, default: Any = None) -> Any:
        found = header.get(f"{family}.{name}", default)
        if found is None:
            raise InputError(f"the file does not say {name}", where=str(path), hint=_DAMAGED)
        return found

    hidden, heads = number("embedding_length"), number("attention.head_count")
    shape = Shape(
        family=family,
        vocab_size=len(stored["token_embd.weight"].data) if "token_embd.weight" in stored else 0,
        hidden_size=hidden,
        intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=number("attention.head_count_kv", heads),
        head_dim=number("attention.key_length", number("rope.dimension_count", hidden // heads)),
        max_position_embeddings=number("context_length"),
        rms_norm_eps=_decimal(number("attention.layer_norm_rms_epsilon")),
        rope_theta=_decimal(number("rope.freq_base", 10000.0)),
        rope_scaling=_linear(path, header, family),
        tie_word_embeddings="output.weight" not in stored,
        attention_bias="blk.0.attn_q.bias" in stored,
        output_bias="blk.0.attn_output.bias" in stored,
        mlp_bias="blk.0.ffn_gate.bias" in stored,
        qk_norm=family == "qwen3",
    )
    if FACTORS not in stored:
        return shape
    scaling = scaling_of(torch.from_numpy(stored[FACTORS].data.copy()), shape)
    if scaling is None:
        raise InputError("the file's rope factors are not Llama 3's", where=f"{path}: {FACTORS}", hint=_FOLDER_INSTEAD)
    return replace(shape, rope_scaling=scaling)


def _linear(path: Path, header: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Rope scaling as the header declares it: none, or linear."""
    kind = header.get(f"{family}.rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind != "linear":
        where = f"{path}: {family}.rope.scaling.type"
        raise InputError("this rope scaling is not supported", where=where, found=repr(kind), hint=_FOLDER_INSTEAD)
    return {"rope_type": "linear", "factor": _decimal(header[f"{family}.rope.scaling.factor"])}


def _decimal(stored: float) -> float:
    """The number that was meant: files hold float32, where 1e-5 is 9.9999997e-06."""
    return float(f"{stored:.6g}")


class Stored(Mapping[str, Tensor]):
    """The tensors of a file under our names, each made into float32 when it is asked for."""

    def __init__(self, stored: Mapping[str, Any], ours: Mapping[str, str], shape: Shape) -> None:
        self.stored = {ours.get(name, name): tensor for name, tensor in stored.items() if name != FACTORS}
        self.shape = shape

    def __getitem__(self, name: str) -> Tensor:
        from gguf.quants import dequantize

        tensor = self.stored[name]
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        heads = rotated_heads(name, self.shape)
        return halved(weight, heads) if heads else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def _tokenizer(path: Path, reader: Any, header: Mapping[str, Any]) -> Tokenizer:
    if header.get("tokenizer.ggml.model") == "gpt2":
        return _byte_level(path, reader, header)
    from transformers import AutoTokenizer

    from thinkery.model.adapter import quiet

    try:
        with quiet():
            source = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, KeyError) as error:
        found = str(error).strip().splitlines()[0]
        raise InputError("transformers cannot read the file's tokenizer", where=str(path), found=found) from error
    return Tokenizer(
        Backend.from_str(source.backend_tokenizer.to_str()),
        eos=source.eos_token or "",
        bos=source.bos_token or "",
        pad=source.pad_token or "",
        template=source.chat_template,
    )


def _byte_level(path: Path, reader: Any, header: Mapping[str, Any]) -> Tokenizer:
    """Byte-pair encoding as the file lists it; transformers' reader loses how text is cut, and adds tokens."""
    from gguf import TokenType

    def listed(name: str) -> list[Any]:
        field = reader.fields.get(f"tokenizer.ggml.{name}")
        return [] if field is None else field.contents()

    tokens, types = listed("tokens"), listed("token_type")
    if not tokens or len(types) != len(tokens):
        found = f"{len(tokens)} tokens, {len(types)} types"
        raise InputError("the file does not list its tokens", where=str(path), found=found, hint=_DAMAGED)
    ids = {text: id for id, (text, type) in enumerate(zip(tokens, types, strict=True)) if type != TokenType.UNUSED}
    merges = [tuple(pair.split(" ")) for pair in listed("merges")]
    cut = header.get("tokenizer.ggml.pre", "default")
    backend = Backend(BPE(ids, merges, ignore_merges=cut in WHOLE_WORDS))
    backend.pre_tokenizer = _pre_tokenizer(path, cut)
    if cut in NORMALIZERS:
        backend.normalizer = NFC()
    backend.decoder = ByteLevel()
    backend.add_special_tokens([text for text, id in ids.items() if types[id] == TokenType.CONTROL])
    backend.add_tokens([text for text, id in ids.items() if types[id] == TokenType.USER_DEFINED])

    def special(name: str) -> str:
        id = header.get(f"tokenizer.ggml.{name}_token_id")
        return "" if id is None else tokens[id]

    return Tokenizer(
        backend,
        eos=special("eos"),
        bos=special("bos"),
        pad=special("padding"),
        template=header.get("tokenizer.chat_template"),
        stops=frozenset(header[name] for end in ENDS if (name := f"tokenizer.ggml.{end}_token_id") in header),
    )


def _pre_tokenizer(path: Path, name: str) -> PreTokenizer:
    if name not in CUTS:
        raise InputError(
            "the file cuts text in a way that is not supported",
            where=str(path),
            found=f"tokenizer.ggml.pre {name!r}",
            hint=_FOLDER_INSTEAD,
        )
    return CUTS[name]()


def _card(path: Path, header: Mapping[str, Any]) -> str:
    name = header.get("general.name", path.stem)
    licence = header.get("general.license", "not stated")
    known = {"license": licence} if re.fullmatch(r"[\w.+-]+", licence) else {}
    made = f"Converted from `{path.name}` to float32 by Thinkery. Licence of the original: {licence}."
    return f"{front(HEADER | known)}# {name}\n\n{made}\n"
