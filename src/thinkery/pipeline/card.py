"""The model card of a step's model: what it is made from, as far back as the run knows.

It names the step, its key and seed, the base, and every step on the way with the hash of what that made, so that a
model that leaves its run can still be traced. It is part of the model's content, and equal runs have equal content:
nothing in it depends on a clock, a path or a run's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import thinkery
from thinkery.pipeline.files import read_state

CARD = "README.md"
HEADER = {"library_name": "transformers", "pipeline_tag": "text-generation"}
"""What the hub reads of every card; a reward model's tag is JUDGES."""
JUDGES = "text-classification"
SHOWN = 12
"""Digits of a hash that are written."""

Manifest = Mapping[str, Any]


def write_card(folder: Path, root: Path, about: Manifest, seed: int) -> None:
    """Add to the card in a model's folder what the run in `root` knows of the step that made it."""
    path = folder / CARD
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {about['name']}\n"
    before = ancestors(root, about)
    base = next((one for one in [*before.values(), about] if begun_with(one)), {})
    config = read_state(folder / "config.json") or {}
    judges = any("Classification" in kind for kind in config.get("architectures") or ())
    header = HEADER | ({"pipeline_tag": JUDGES} if judges else {})
    header |= {"base_model": hub_id(base), "license": licence(card_of(root, base)) or licence(text)}
    path.write_text(front(header) + body(text) + lineage(about, before, base, seed), encoding="utf-8")


def ancestors(root: Path, about: Manifest) -> dict[str, Manifest]:
    """The manifests of all that a step came from, by name, inputs before what reads them; of one that is not in this
    directory, what its reader knows."""
    found: dict[str, Manifest] = {}

    def visit(one: Manifest) -> None:
        for read in one.get("inputs", {}).values():
            if read["name"] not in found:
                made = read_state(folder_of(root, read) / "artifact.json") or read
                visit(made)
                found[read["name"]] = made

    visit(about)
    return found


def folder_of(root: Path, step: Manifest) -> Path:
    """Where a done step of a run is."""
    return root / "steps" / f"{step['name']}-{step['key'][:8]}"


def lineage(about: Manifest, before: Mapping[str, Manifest], base: Manifest, seed: int) -> str:
    """The part of a card that says where the model comes from, in Markdown."""
    facts = {
        "step": f"`{about['name']}`" + (f", `{about['function']}`" if "function" in about else ""),
        "base": name_of(base) if base else "",
        "seed": str(seed),
        "key": f"`{about['key']}`" if about["key"] else "",
        "made with": f"Thinkery {thinkery.__version__}",
    }
    lines = ["", "## Where it comes from", "", *(f"- {name}: {fact}" for name, fact in facts.items() if fact)]
    if before:
        lines += ["", "| made from | what | from | content |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {described(one)} | {sources(one)} | `{one['content'][:SHOWN]}` |"
            for name, one in before.items()
        ]
    return "\n".join(lines) + "\n"


def described(one: Manifest) -> str:
    """What a step made, in a few words."""
    if one.get("kind") == "Dataset":
        origins = ", ".join(sorted(one.get("funnel_by_source", {}))).replace("|", "\\|")
        return f"Dataset, {one['rows']} rows" + (f": {origins}" if origins else "")
    return one.get("kind", "") + (f": {name_of(one)}" if begun_with(one) else "")


def sources(one: Manifest) -> str:
    """The names of what a step read."""
    return ", ".join(dict.fromkeys(read["name"] for read in one.get("inputs", {}).values()))


def begun_with(one: Manifest) -> str:
    """How the recipe calls the model that a step fetches; "" where it fetches none."""
    name = (one.get("config") or {}).get("model")
    return name if isinstance(name, str) and not one.get("inputs") else ""


def name_of(base: Manifest) -> str:
    """The model that a recipe begins with: a hub id or a name, of a path the last part."""
    return hub_id(base) or Path(begun_with(base)).name


def hub_id(base: Manifest) -> str:
    """The hub's name of the model that a recipe begins with; "" where it did not come from there."""
    name = begun_with(base)
    return name if f"models--{name.replace('/', '--')}" in Path(base.get("folder", "")).parts else ""


def card_of(root: Path, base: Manifest) -> str:
    """The card of a model in the run; "" where it has none."""
    path = folder_of(root, base) / base["folder"] / CARD if "folder" in base else None
    return path.read_text(encoding="utf-8", errors="replace") if path and path.is_file() else ""


def licence(card: str) -> str:
    """The licence that a card's header names; "" where it names none."""
    header = card[: len(card) - len(body(card))]
    found = re.search(r"^license:[ \t]*([\"']?)([\w.+-]+)\1[ \t]*(?:#.*)?\r?$", header, re.MULTILINE)
    return found[2] if found else ""


def front(header: Mapping[str, str]) -> str:
    """The lines for the hub at the top of a card, of what is known."""
    return "".join(["---\n", *(f"{name}: {value}\n" for name, value in header.items() if value), "---\n\n"])


def body(card: str) -> str:
    """A card without the lines for the hub at its top."""
    return card.split("\n---\n", 1)[1].lstrip() if card.startswith("---\n") and "\n---\n" in card else card
