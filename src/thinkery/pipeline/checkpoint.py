"""Checkpoints: folders that are whole or absent, each with the lengths of the logs.

The newest two stay, and the newest at which no alarm was ringing: after a collapse a run goes back to it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thinkery.errors import UsageError
from thinkery.pipeline.artifact import verify_file
from thinkery.pipeline.files import (
    disk_full,
    free_bytes,
    hash_folder,
    read_json,
    remove_folder,
    write_folder,
    write_json,
)

KEPT = 2
NOTE = "checkpoint.json"
GOOD = "good"
"""Names the newest checkpoint at which no alarm was ringing."""


def write_checkpoint(folder: Path, step: int, save: Callable[[Path], object], note: Mapping[str, Any]) -> None:
    """Let `save` fill `step-NNNNNN`, then drop all but the newest two and the newest good one; DiskFull before any work
    when room is short."""
    for torn in folder.glob("*.tmp"):
        shutil.rmtree(torn)
    require_room(folder)

    def fill(temporary: Path) -> None:
        save(temporary)
        write_json(temporary / NOTE, {"step": step, **note, "files": hash_folder(temporary)})

    write_folder(folder / f"step-{step:06d}", fill)
    found = checkpoints(folder)
    kept = {*found[-KEPT:], *[path for path in found if good(path)][-1:]}
    for old in found:
        if old not in kept:
            remove_folder(old)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and (p / NOTE).exists()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def good(checkpoint: Path) -> bool:
    """Whether no alarm was ringing; not where nobody noted it, as before there were good ones."""
    return read_json(checkpoint / NOTE).get("ringing") == []


def read_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint with its note, None when there is none; HashMismatch when its bytes have changed."""
    found = checkpoints(folder)
    return verified(found[-1], f"to go on from the checkpoint before it: rm -r {found[-1]}") if found else None


def choose_checkpoint(folder: Path, which: str) -> tuple[Path, dict[str, Any]]:
    """The checkpoint after so many steps, or the newest good one, with its note; UsageError where it is not there,
    HashMismatch when its bytes have changed."""
    found = {int(path.name[5:]): path for path in checkpoints(folder)}
    steps = [step for step, path in found.items() if (good(path) if which == GOOD else which == str(step))]
    if not steps:
        there = ", ".join(f"{step}{' (good)' if good(path) else ''}" for step, path in found.items())
        raise UsageError(
            "there is no such checkpoint", where=str(folder), found=which, hint=f"there are: {there or 'none'}"
        )
    return verified(found[steps[-1]], "another checkpoint, or the newest one")


def verified(checkpoint: Path, hint: str) -> tuple[Path, dict[str, Any]]:
    """A checkpoint whose bytes are those that were written, and its note."""
    note = read_json(checkpoint / NOTE)
    for name, written in note["files"].items():
        verify_file(checkpoint / name, written, hint=hint)
    return checkpoint, note


def size_of_last(folder: Path) -> int:
    """Bytes in the newest checkpoint, 0 when there is none."""
    found = checkpoints(folder)
    return sum(p.stat().st_size for p in found[-1].rglob("*") if p.is_file()) if found else 0


def require_room(folder: Path) -> None:
    """DiskFull unless another checkpoint as large as the last one fits."""
    needed = size_of_last(folder)
    if free_bytes(folder) < needed:
        raise disk_full(folder, needed)
