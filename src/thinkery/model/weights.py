"""Safetensors folders in the Hugging Face layout: one file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thinkery.errors import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
_TOGETHER = "take config.json and weights of one and the same model"
_DAMAGED = "the file is damaged or cut short: copy or download it again"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, by name, in the type it is stored in. Pickled weights are refused."""
    weights: dict[str, Tensor] = {}
    for path in _files(folder):
        try:
            weights.update(load_file(path))
        except (SafetensorError, OSError) as error:
            raise InputError("weights cannot be read", where=str(path), found=str(error), hint=_DAMAGED) from error
    return weights


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, by name, as a shape without numbers; works for weights larger than the memory."""
    shapes = {name: entry["shape"] for path in _files(folder) for name, entry in _header(path).items()}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _header(path: Path) -> dict[str, Any]:
    """The JSON at the beginning of a safetensors file: 8 bytes that give its length, then as many of text."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size - 8:
                raise ValueError("its header does not end")
            header = json.loads(file.read(length))
    except (ValueError, OSError) as error:
        raise InputError("weights cannot be read", where=str(path), found=str(error), hint=_DAMAGED) from error
    header.pop("__metadata__", None)
    return header


def read_rows(folder: Path, rows: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, Tensor]]:
    """Of named tensors of a folder the rows from the first of two numbers to before the second, a tensor at a time and
    in the type it is stored in; nothing else is read."""
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in rows.keys() & set(file.keys()):
                    first, end = rows[name]
                    yield name, file.get_slice(name)[first:end]
        except (SafetensorError, OSError) as error:
            raise InputError("weights cannot be read", where=str(path), found=str(error), hint=_DAMAGED) from error


def on_host(tensor: Tensor) -> Tensor:
    """A tensor's numbers in the host's memory, one behind the other."""
    return tensor.detach().contiguous().cpu()


def write_weights(
    folder: Path,
    weights: Mapping[str, Tensor],
    *,
    shard_bytes: int = SHARD_BYTES,
    whole: Callable[[Tensor], Tensor] = on_host,
) -> None:
    """Write tensors as model.safetensors, or as shards with an index where they exceed `shard_bytes`.

    `whole` makes of each what is written. It is called once for each, in their order, and what it has made is held
    until the file is written.
    """
    shards = _shards(weights, shard_bytes)
    if len(shards) == 1:
        _write(folder / SINGLE, shards[0], whole)
        return
    where: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        _write(folder / name, shard, whole)
        where |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in weights.values())}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def fill(network: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy tensors into a network, converting their type; the names and shapes must be exactly the network's.

    Parameters that share storage count once, under the first of their names.
    """
    check_fit(network, weights, where=where)
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])


def check_fit(network: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Raise InputError unless names and shapes are exactly the network's."""
    wanted = dict(network.named_parameters())
    _check_names(wanted.keys() - weights.keys(), weights.keys() - wanted.keys(), where)
    _check_shapes(wanted, weights, where)


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise InputError(
                "shards are missing",
                where=str(folder),
                found=f"no {', '.join(missing)}",
                hint="copy or download the model again",
            )
        return [folder / Path(name).name for name in names]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise InputError(
            "only safetensors are loaded: reading pickled weights can run code",
            where=str(folder),
            found=", ".join(pickled),
            hint="convert them with transformers: model.save_pretrained(folder)",
        )
    raise InputError(
        "no model.safetensors in the folder", where=str(folder), hint="copy or download the model's safetensors files"
    )


def _write(path: Path, shard: Mapping[str, Tensor], whole: Callable[[Tensor], Tensor]) -> None:
    save_file({name: whole(tensor) for name, tensor in shard.items()}, path, metadata={"format": "pt"})


def _shards(weights: Mapping[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    """Tensors in their order, cut before each that would pass the limit; at least one shard."""
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in weights.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    return shards


def _check_names(missing: set[str], extra: set[str], where: str) -> None:
    problems = [f"{kind}: {_listed(names)}" for kind, names in (("missing", missing), ("extra", extra)) if names]
    if problems:
        raise InputError(
            "the weights are not those of the architecture in config.json",
            where=where,
            found="; ".join(problems),
            hint=_TOGETHER,
        )


def _check_shapes(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str) -> None:
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if weights[name].shape != parameter.shape
    ]
    if wrong:
        raise InputError("weights have the wrong shape", where=where, found=_listed(wrong), hint=_TOGETHER)


def _listed(names: list[str] | set[str], most: int = 8) -> str:
    shown = sorted(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
