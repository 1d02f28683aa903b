"""A network and its tokenizer written as a .gguf file, which llama.cpp and what is built on it load.

Matrices are stored in the type asked for, norms and biases in float32, as llama.cpp's own converter does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinkery.errors import InputError
from thinkery.model.gguf.layout import (
    CUTS,
    ENDS,
    FACTORS,
    NORMALIZERS,
    WHOLE_WORDS,
    library,
    paired,
    rope_factors,
    rotated_heads,
    tensor_names,
)
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer

TYPES = ("f32", "f16", "bf16", "q8_0")
"""How matrices can be stored: q8_0 is 8 bits a weight with a scale for 32 of them."""


def export(
    path: str | Path, network: Any, tokenizer: Tokenizer, *, type: str = "bf16", name: str = "", licence: str = ""
) -> None:
    """Write the file; raises InputError, before anything is written, for what the format cannot hold."""
    path = Path(path)
    gguf = library(str(path))
    cut = check_exportable(network, tokenizer, type=type)
    writer = gguf.GGUFWriter(path, network.shape.family)
    writer.add_name(name or path.stem)
    if licence:
        writer.add_license(licence)
    writer.add_file_type(gguf.LlamaFileType[file_type(type)])
    describe(writer, gguf, network.shape)
    add_tokenizer(writer, gguf, network.shape, tokenizer, cut)
    add_tensors(writer, gguf, network, type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_exportable(network: Any, tokenizer: Tokenizer, *, type: str = "bf16") -> str:
    """llama.cpp's name for how this tokenizer cuts text; raises InputError for what the format cannot hold."""
    if type not in TYPES:
        raise InputError("no such type of GGUF weights", found=repr(type), hint=f"one of {', '.join(TYPES)}")
    if not isinstance(network, Transformer):
        raise InputError("only Llama, Qwen2 and Qwen3 are written as GGUF", found=network.shape.family)
    shape = network.shape
    rows = (shape.hidden_size, shape.intermediate_size, shape.num_attention_heads * shape.head_dim)
    if type == "q8_0" and (odd := [n for n in rows if n % 32]):
        raise InputError("q8_0 stores 32 weights at a time", found=f"rows of {odd[0]}", hint="take f16 or bf16")
    settings = json.loads(tokenizer.backend.to_str())
    cut = next((name for name, make in CUTS.items() if same_cut(make(), settings["pre_tokenizer"])), None)
    if settings["model"]["type"] != "BPE" or cut is None:
        raise InputError(
            "llama.cpp does not know how this tokenizer cuts text",
            found=json.dumps(settings["pre_tokenizer"])[:200],
            hint=f"a folder instead; of tokenizers, those that cut like {', '.join(CUTS)} can be written",
        )
    if lost := list(not_kept(settings, tokenizer, cut)):
        raise InputError(
            f"a GGUF file does not keep all of a tokenizer that cuts like {cut}",
            found=", ".join(lost),
            hint="a folder instead",
        )
    return cut


def not_kept(settings: dict[str, Any], tokenizer: Tokenizer, cut: str) -> Iterator[str]:
    """What of a tokenizer a file cannot say: who reads it takes these from the name of how text is cut."""
    normalizer = settings["normalizer"]
    if normalizer is not None and normalizer != NORMALIZERS.get(cut):
        yield f"normalizer {json.dumps(normalizer)[:100]}"
    if (ignores := bool(settings["model"].get("ignore_merges"))) != (cut in WHOLE_WORDS):
        yield f"ignore_merges {json.dumps(ignores)}"
    if len(ends := tokenizer.eos_ids) > len(ENDS):
        yield f"{len(ends)} tokens that end a text, of which it holds {len(ENDS)}"


def same_cut(known: Any, found: Any) -> bool:
    """Whether two pre-tokenizers cut alike; offsets are not part of it."""
    return plain(json.loads(known.__getstate__())) == plain(found)


def plain(part: Any) -> Any:
    """A pre-tokenizer's settings without `trim_offsets`, which cuts nothing; older files leave `use_regex` out."""
    if isinstance(part, list):
        return [plain(each) for each in part]
    if isinstance(part, dict):
        kept = {name: plain(value) for name, value in part.items() if name != "trim_offsets"}
        return {"use_regex": True} | kept if kept.get("type") == "ByteLevel" else kept
    return part


def describe(writer: Any, gguf: Any, shape: Shape) -> None:
    """The numbers of the architecture."""
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    if shape.rope_scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(shape.rope_scaling["factor"]))


def add_tokenizer(writer: Any, gguf: Any, shape: Shape, tokenizer: Tokenizer, cut: str) -> None:
    """Vocabulary, merges, special tokens and the chat template; rows that have no token get names of their own."""
    backend = json.loads(tokenizer.backend.to_str())
    known = tokenizer.backend.get_vocab(with_added_tokens=True)
    tokens = [f"[PAD{id}]" for id in range(shape.vocab_size)]
    types = [gguf.TokenType.UNUSED] * shape.vocab_size
    for text, id in known.items():
        tokens[id], types[id] = text, gguf.TokenType.NORMAL
    for added in backend["added_tokens"]:
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    merges = [each if isinstance(each, str) else " ".join(each) for each in backend["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for end, id in zip(ENDS, [tokenizer.eos_id, *sorted(tokenizer.stops - {tokenizer.eos_id})], strict=False):
        writer.add_uint32(f"tokenizer.ggml.{end}_token_id", id)
    writer.add_pad_token_id(tokenizer.pad_id)
    if tokenizer.bos in known:
        writer.add_bos_token_id(known[tokenizer.bos])
    writer.add_add_bos_token(False)  # a chat template says where it begins
    if tokenizer.template is not None:
        writer.add_chat_template(tokenizer.template)


def add_tensors(writer: Any, gguf: Any, network: Transformer, type: str) -> None:
    """The weights, matrices in the type asked for."""
    from gguf.quants import quantize

    shape = network.shape
    matrices, vectors = gguf.GGMLQuantizationType[type.upper()], gguf.GGMLQuantizationType.F32
    parameters = dict(network.named_parameters())
    names = tensor_names(shape, list(parameters), shape.family)
    for ours, theirs in names.items():
        weight = stored(ours, parameters[ours], shape)
        form = matrices if weight.dim() == 2 else vectors
        writer.add_tensor(theirs, quantize(weight.numpy(), form), raw_dtype=form)
    if shape.rope_scaling.get("rope_type") == "llama3":
        writer.add_tensor(FACTORS, rope_factors(shape).numpy())


@torch.no_grad()
def stored(name: str, parameter: Tensor, shape: Shape) -> Tensor:
    """A parameter in float32 on the CPU, its rows in the file's order."""
    weight = parameter.detach().to("cpu", torch.float32)
    heads = rotated_heads(name, shape)
    return paired(weight, heads) if heads else weight


def file_type(type: str) -> str:
    """The library's name for what most of a file is stored in."""
    return "ALL_F32" if type == "f32" else f"MOSTLY_{type.upper()}"
