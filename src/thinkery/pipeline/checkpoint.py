"""Checkpoints: folders that are whole or absent, the newest two of them, each with the lengths of the logs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thinkery.pipeline.artifact import verify_file
from thinkery.pipeline.files import disk_full, free_bytes, hash_folder, read_json, write_folder, write_json

KEPT = 2
NOTE = "checkpoint.json"


def write_checkpoint(folder: Path, step: int, save: Callable[[Path], object], note: Mapping[str, Any]) -> None:
    """Let `save` fill `step-NNNNNN`, then drop all but the newest two; DiskFull before any work when room is short."""
    for torn in folder.glob("*.tmp"):
        shutil.rmtree(torn)
    require_room(folder)

    def fill(temporary: Path) -> None:
        save(temporary)
        write_json(temporary / NOTE, {"step": step, **note, "files": hash_folder(temporary)})

    write_folder(folder / f"step-{step:06d}", fill)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def read_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint with its note, None when there is none; HashMismatch when its bytes have changed."""
    found = checkpoints(folder)
    if not found:
        return None
    note = read_json(found[-1] / NOTE)
    hint = f"to go on from the checkpoint before it: rm -r {found[-1]}"
    for name, written in note["files"].items():
        verify_file(found[-1] / name, written, hint=hint)
    return found[-1], note


def size_of_last(folder: Path) -> int:
    """Bytes in the newest checkpoint, 0 when there is none."""
    found = checkpoints(folder)
    return sum(p.stat().st_size for p in found[-1].rglob("*") if p.is_file()) if found else 0


def require_room(folder: Path) -> None:
    """DiskFull unless another checkpoint as large as the last one fits."""
    needed = size_of_last(folder)
    if free_bytes(folder) < needed:
        raise disk_full(folder, needed)
