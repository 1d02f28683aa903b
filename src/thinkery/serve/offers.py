"""The models that are offered: by which names, with which tokenizer, how long their texts may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from thinkery import __version__
from thinkery.errors import InputError
from thinkery.model.tokenizer import Tokenizer, read_json, require_chat
from thinkery.serve.reading import Readable
from thinkery.serve.replica import Served

ALIAS = "deepseek-reasoner"
"""The name under which every client finds the first model."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model as clients know it; `fingerprint` changes with its files."""

    readable: Readable
    fingerprint: str


def offers(models: Sequence[Served], max_len: int | None) -> dict[str, Offer]:
    """Each model by its name, and the first one as "deepseek-reasoner" too."""
    found = {model.name: offer(model, max_len) for model in models}
    return {ALIAS: found[models[0].name], **found}


def offer(model: Served, max_len: int | None) -> Offer:
    """A model, read as far as a request needs it."""
    tokenizer = Tokenizer.load(model.folder)
    if model.template:
        tokenizer = tokenizer.with_template(model.template)
    require_chat(tokenizer)
    return Offer(Readable(model.name, tokenizer, context_of(model.folder, max_len)), fingerprint(model.folder))


def context_of(folder: Path, max_len: int | None) -> int:
    """Tokens of prompt and completion together: as configured, but no more than the model has positions for."""
    positions = read_json(folder / "config.json").get("max_position_embeddings")
    limits = [limit for limit in (max_len, positions) if limit]
    if not limits:
        raise InputError("the model does not say how long its texts may be", where=str(folder), hint="set max_len")
    return min(limits)


def fingerprint(folder: Path) -> str:
    """A short name for a model's files as they are, and for what runs them."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    lines = [__version__, *(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)]
    return f"fp_{blake2b(repr(lines).encode(), digest_size=5).hexdigest()}"
