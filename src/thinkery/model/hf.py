"""Hugging Face folders in and out: a network and its tokenizer, as transformers would load them.

Llama, Qwen2 and Qwen3 become our `Transformer`; any other causal language model that transformers knows is
`Adapted`. Loading runs nothing that comes with the weights: safetensors only, no remote code, sandboxed
templates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from thinkery.errors import EnvironmentLacks, InputError
from thinkery.model.tokenizer import Tokenizer, read_json
from thinkery.model.transformer import Shape, Transformer
from thinkery.model.weights import SHARD_BYTES, check_fit, fill, on_host, read_headers, read_weights, write_weights
from thinkery.pipeline.card import CARD, HEADER, front
from thinkery.pipeline.files import size_text
from thinkery.pipeline.memory import memory

if TYPE_CHECKING:
    from thinkery.model.adapter import Adapted

FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""`model_type` → architecture of the families that are our own `Transformer`."""
NEEDED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "rms_norm_eps",
)  # fmt: skip
"""What config.json must say of each of them."""
FURTHER = ("num_key_value_heads", "head_dim", "rope_theta")
"""Further numbers that it may say."""


def accelerator() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class Formats(NamedTuple):
    """Number formats of a network."""

    matrices: torch.dtype
    vectors: torch.dtype
    """Of norms and biases."""


def formats_of(network: nn.Module) -> Formats:
    """The number formats that a network has."""
    matrices = next(p.dtype for p in network.parameters() if p.dim() >= 2)
    return Formats(matrices, next((p.dtype for p in network.parameters() if p.dim() < 2), matrices))


def load_model(
    folder: str | Path, dtype: torch.dtype | Formats = torch.float32, device: torch.device | None = None
) -> tuple[Transformer | Adapted, Tokenizer]:
    """The network, in training mode as made and on a device (default: the CPU), and the tokenizer of a Hugging Face
    folder."""
    folder = Path(folder)
    formats = dtype if isinstance(dtype, Formats) else Formats(dtype, dtype)
    config = read_config(folder)
    tokenizer = Tokenizer.load(folder)
    require_room(_numbers(read_headers(folder)), where=str(folder), dtype=formats.matrices)
    network = _load_network(folder, config, formats)
    return network.to(device) if device else network, _with_rows(folder, tokenizer, network.shape.vocab_size)


def read_own(folder: str | Path) -> tuple[Shape, Tokenizer]:
    """The shape and the tokenizer of a folder of a Llama, Qwen2 or Qwen3, of whose weights only names and shapes are
    read; raises InputError where they are of another family or not those of the shape."""
    folder = Path(folder)
    shape = shape_from_config(read_config(folder), where=str(folder / "config.json"))
    tokenizer = Tokenizer.load(folder)
    _check_headers(folder, shape, read_headers(folder))
    return shape, _with_rows(folder, tokenizer, shape.vocab_size)


def check_model(folder: str | Path) -> None:
    """Raise InputError for what would keep `load_model` from loading a folder, or the model from ending a text, and
    EnvironmentLacks where its weights exceed the memory.

    Of weights only names and shapes are read; whether those of other families than ours fit is left to transformers.
    """
    folder = Path(folder)
    config = read_config(folder)
    tokenizer = Tokenizer.load(folder)
    tokenizer.eos_id  # noqa: B018 - raises where there is none
    headers = read_headers(folder)
    if config.get("model_type") in FAMILIES:
        shape = shape_from_config(config, where=str(folder / "config.json"))
        _check_headers(folder, shape, headers)
    else:
        from thinkery.model import adapter

        shape = adapter.read_shape(folder)
    _with_rows(folder, tokenizer, shape.vocab_size)
    require_room(_numbers(headers), where=str(folder))


def require_room(numbers: int, *, where: str, dtype: torch.dtype = torch.float32) -> None:
    """Raise EnvironmentLacks where so many numbers do not fit into the memory that is free."""
    needed, free = numbers * dtype.itemsize, memory()[1]
    if needed > free:
        raise EnvironmentLacks(
            "too little memory to load this model",
            where=where,
            found=f"its weights need {size_text(needed)}, {size_text(free)} are free",
            hint="a smaller model, a larger machine, or an endpoint that serves it",
        )


def save_model(
    folder: str | Path,
    network: Transformer | Adapted,
    tokenizer: Tokenizer,
    *,
    card: str = "",
    shard_bytes: int = SHARD_BYTES,
    whole: Callable[[Tensor], Tensor] = on_host,
) -> None:
    """Write a folder that transformers and `load_model` load: weights, configs, tokenizer, template, model card.

    A card without the lines for the hub at its top gets the usual ones. `whole` makes of each weight of our own decoder
    what is written (`write_weights`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(network, Transformer):
        write_json(folder / "config.json", config_from_shape(network.shape, tokenizer, _dtype_of(network)))
        write_weights(folder, dict(network.named_parameters()), shard_bytes=shard_bytes, whole=whole)
    else:
        network.save(folder, shard_bytes=shard_bytes)
    write_json(folder / "generation_config.json", _generation_config(tokenizer))
    tokenizer.save(folder)
    headed = card if card.startswith("---\n") else front(HEADER) + (card or _card(network))
    (folder / CARD).write_text(headed, encoding="utf-8")


def _card(network: Transformer | Adapted) -> str:
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    return f"# A {network.shape.family} model of {millions:.1f} million parameters\n\nWritten by Thinkery.\n"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; raises InputError where there is none."""
    if not (folder / "config.json").is_file():
        raise InputError("not a Hugging Face model folder: no config.json", where=str(folder))
    return read_json(folder / "config.json")


def _refuse_types(config: Mapping[str, Any], where: str) -> None:
    """Raise InputError where a number that a shape is made of is none, or not positive."""
    wrong = [
        f"{name} = {config[name]!r}"
        for name in (*NEEDED, *FURTHER)
        if config.get(name) is not None
        and (isinstance(config[name], bool) or not isinstance(config[name], int | float) or config[name] <= 0)
    ]
    if wrong:
        hint = "take the config.json that belongs to these weights"
        raise InputError("not positive numbers", where=where, found=", ".join(wrong), hint=hint)


def shape_from_config(config: Mapping[str, Any], *, where: str = "config.json") -> Shape:
    """The shape of a Llama, Qwen2 or Qwen3 config.json, as transformers 4 or 5 writes it."""
    family = config.get("model_type", "")
    if family not in FAMILIES:
        raise InputError(f"not one of {', '.join(FAMILIES)}", where=where, found=f"model_type {family!r}")
    if missing := [key for key in NEEDED if not config.get(key)]:
        raise InputError(
            f"the configuration lacks what a {family} model has",
            where=where,
            found=f"no {', '.join(missing)}",
            hint="take the config.json that belongs to these weights",
        )
    _refuse_types(config, where)
    _refuse_variants(config)
    theta, scaling = _rope(config)
    heads = config["num_attention_heads"]
    biased = bool(config.get("attention_bias", False))
    return Shape(
        family=family,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=biased or family == "qwen2",
        output_bias=biased and family != "qwen2",
        mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
        qk_norm=family == "qwen3",
    )


def config_from_shape(shape: Shape, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """config.json of a shape, readable by transformers 4 and 5."""
    config: dict[str, Any] = {
        "architectures": [FAMILIES[shape.family]],
        "model_type": shape.family,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_position_embeddings,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": dict(shape.rope_scaling) or None,
        "tie_word_embeddings": shape.tie_word_embeddings,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": tokenizer.backend.token_to_id(tokenizer.bos) if tokenizer.bos else None,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    if shape.family != "qwen2":
        config["attention_bias"] = shape.attention_bias
    if shape.family == "llama":
        config["mlp_bias"] = shape.mlp_bias
    if shape_from_config(config) != shape:
        raise ValueError(f"no {shape.family} config.json describes {shape}")
    return config


def empty(shape: Shape, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Transformer:
    """A network whose weights are allocated but not set, which saves drawing random ones."""
    return outline(shape).to(dtype).to_empty(device=device)


def outline(shape: Shape) -> Transformer:
    """A network whose weights have shapes and no numbers."""
    with torch.device("meta"):
        return Transformer(shape)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""The kinds of rope scaling we compute → the numbers each needs."""


def _load_network(folder: Path, config: Mapping[str, Any], formats: Formats) -> Transformer | Adapted:
    if config.get("model_type") not in FAMILIES:
        from thinkery.model.adapter import Adapted

        return Adapted.load(folder, formats.matrices)
    network = empty(shape_from_config(config, where=str(folder / "config.json")), formats.matrices)
    for p in network.parameters():
        if p.dim() < 2:
            p.data = p.data.to(formats.vectors)
    weights = read_weights(folder)
    _check_tie(weights, network.shape, folder)
    fill(network, _learnt(weights, network.shape), where=str(folder))
    return network


def _check_headers(folder: Path, shape: Shape, headers: Mapping[str, Tensor]) -> None:
    """Raise InputError unless names and shapes of a folder's tensors are those of a network of this shape."""
    check_fit(outline(shape), _learnt(headers, shape), where=str(folder))


def _check_tie(weights: Mapping[str, Tensor], shape: Shape, folder: Path) -> None:
    """Raise InputError where a folder holds a head besides the embeddings that config.json says it shares.

    transformers 5 takes that head, 4 the embeddings.
    """
    names = ("lm_head.weight", "model.embed_tokens.weight")
    if not shape.tie_word_embeddings or not all(name in weights for name in names):
        return
    head, embeddings = (weights[name] for name in names)
    if not torch.equal(head, embeddings):
        raise InputError(
            "config.json says that head and embeddings are one, and the weights hold two",
            where=str(folder),
            found="lm_head.weight is not model.embed_tokens.weight",
            hint='set "tie_word_embeddings" to false in config.json if the head is meant, else remove lm_head.weight',
        )


def _with_rows(folder: Path, tokenizer: Tokenizer, rows: int) -> Tokenizer:
    """The tokenizer without the special tokens that no row of the embedding is for, such as images of a text-only
    model; raises InputError where other tokens have no row."""
    if tokenizer.vocab_size <= rows:
        return tokenizer
    cut = tokenizer.without_specials_from(rows)
    if cut.vocab_size > rows:
        raise InputError(
            "the tokenizer has more tokens than the embedding has rows",
            where=str(folder),
            found=f"{tokenizer.vocab_size} tokens, {rows} rows",
            hint="take the tokenizer that belongs to these weights",
        )
    return cut


def _learnt(weights: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The tensors of a folder that a network of this shape has; some writers keep more."""
    copied = {"lm_head.weight"} if shape.tie_word_embeddings else set()
    return {k: v for k, v in weights.items() if k not in copied and not k.endswith("rotary_emb.inv_freq")}


def _numbers(headers: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in headers.values())


def _dtype_of(network: Transformer) -> torch.dtype:
    return next(network.parameters()).dtype


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Where transformers, vLLM and others stop by default."""
    return {"eos_token_id": sorted(tokenizer.eos_ids), "pad_token_id": tokenizer.pad_id}


def _rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """(theta, scaling) from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(rope.pop("rope_theta", None) or config.get("rope_theta") or 10000.0)
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    if kind not in _ROPE_KEYS:
        raise InputError(
            "this rope scaling is not supported",
            where="config.json",
            found=repr(kind),
            hint=f"a checkpoint with one of {', '.join(_ROPE_KEYS)}, or remove rope_scaling for short contexts",
        )
    if missing := [key for key in _ROPE_KEYS[kind] if key not in rope]:
        raise InputError(f"{kind} rope scaling is incomplete", where="config.json", found=f"no {', '.join(missing)}")
    if kind == "default":
        return theta, {}
    return theta, {"rope_type": kind, **{key: rope[key] for key in _ROPE_KEYS[kind]}}


def _refuse_variants(config: Mapping[str, Any]) -> None:
    """Options of the three families that the Transformer does not compute."""
    slides = config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ())
    rope = config.get("rope_parameters") or {}
    unsupported = {
        "sliding-window attention": slides,
        f"hidden_act {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "partial rotary embedding": config.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0)) != 1.0,
        "quantised weights": "quantization_config" in config,
    }
    if found := [name for name, present in unsupported.items() if present]:
        raise InputError(
            f"this variant of {config['model_type']} is not supported",
            where="config.json",
            found=", ".join(found),
            hint="a checkpoint with full attention and plain weights",
        )
