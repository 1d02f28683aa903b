"""How a decoder lies in a .gguf file: the names of tensors, the order of rotated rows, how text is cut.

Source: the `gguf` package of llama.cpp and its converter, convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer
from torch import Tensor

from thinkery.errors import EnvironmentLacks
from thinkery.model.transformer import Shape, rope_frequencies

FACTORS = "rope_freqs.weight"
"""Llama 3's long-context scaling, as what each pair's angular frequency is divided by."""


def library(where: str) -> Any:
    """The `gguf` package; raises EnvironmentLacks without it."""
    try:
        import gguf
    except ImportError as error:
        raise EnvironmentLacks("a .gguf file needs the gguf package", where=where, hint="pip install gguf") from error
    return gguf


def tensor_names(shape: Shape, names: list[str], where: str) -> dict[str, str]:
    """Our parameters' names → the file's."""
    gguf = library(where)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[shape.family.upper()], shape.num_hidden_layers)
    return {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}


def rotated_heads(name: str, shape: Shape) -> int:
    """Heads of a query or key projection whose rows the file holds in another order; 0 for what it holds as we do.

    A pair of channels that is rotated together is adjacent in Llama's files, half a head apart in everything else.
    """
    if shape.family != "llama":
        return 0
    heads = {"q_proj": shape.num_attention_heads, "k_proj": shape.num_key_value_heads}
    return heads.get(name.split(".")[-2], 0)


def paired(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection with the two channels of each pair beside each other."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


def halved(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `paired`: all first channels of a head, then all second ones."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def rope_factors(shape: Shape) -> Tensor:
    """What scaling divides each pair's frequency by (float32, half a head)."""
    return rope_frequencies(replace(shape, rope_scaling={})) / rope_frequencies(shape)


def scaling_of(factors: Tensor, shape: Shape) -> dict[str, Any] | None:
    """Llama 3's rope scaling with these factors, where it is one that its makers published; None otherwise."""
    found = {
        "rope_type": "llama3",
        "factor": float(f"{factors.max().item():.6g}"),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    same = torch.allclose(rope_factors(replace(shape, rope_scaling=found)), factors, rtol=1e-4)
    return found if same else None


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _words(pattern: str) -> PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


CUTS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": lambda: _words(_LLAMA3),
    "qwen2": lambda: _words(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")),
}
"""llama.cpp's names for how a text is cut into words, with the equivalent of the tokenizers library."""
NORMALIZERS: dict[str, Any] = {"qwen2": {"type": "NFC"}}
"""What their tokenizers make of a text before it is cut, as tokenizer.json says it; the others nothing."""
WHOLE_WORDS = frozenset({"llama-bpe"})
"""Those in which a word that is a token is not made from its merges (`ignore_merges`)."""
ENDS = ("eos", "eot", "eom")
"""The tokens that end a text, by their names in the header; llama.cpp stops at each."""
