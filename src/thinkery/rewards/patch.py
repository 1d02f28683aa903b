"""Applying a unified diff to files given as text, strictly: every context and removed line must be there.

Line numbers in hunks may be wrong, as models count badly: a hunk goes to the place nearest to the stated one where
all its old lines stand, after the hunk before it. Binary patches, renames and file modes are not handled.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")
_NOTHING = "/dev/null"


class PatchFailed(ValueError):
    """A diff that cannot be read or does not fit its files; the message says where."""


@dataclass(slots=True)
class _Hunk:
    """Lines to find, from about line `start` (counted from 0), and lines to put in their place."""

    start: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """A line of the hunk: context (a blank one may have lost its space), removed or added."""
        if line[:1] != "+":
            self.old.append(line[1:])
        if line[:1] != "-":
            self.new.append(line[1:])


def apply_patch(files: Mapping[str, str], diff: str) -> dict[str, str]:
    """The files after a unified diff; raises PatchFailed where it does not apply."""
    patched = dict(files)
    changes = _read(diff)
    if not changes:
        raise PatchFailed("no hunks in the diff")
    for old_path, new_path, hunks in changes:
        if old_path != _NOTHING and old_path not in patched:
            raise PatchFailed(f"{old_path} does not exist")
        text = patched.pop(old_path) if old_path != _NOTHING else ""
        if new_path != _NOTHING:
            patched[new_path] = _apply(text, hunks, new_path)
    return patched


def _read(diff: str) -> list[tuple[str, str, list[_Hunk]]]:
    """(old path, new path, hunks) of every file of a diff."""
    changes: list[tuple[str, str, list[_Hunk]]] = []
    lines = iter(itertools.pairwise([*diff.rstrip().splitlines(), ""]))
    for line, following in lines:
        if line.startswith("--- ") and following.startswith("+++ "):
            changes.append((_path(line), _path(following), []))
            next(lines)
        elif found := _HUNK.match(line):
            if not changes:
                raise PatchFailed("a hunk before any file name")
            changes[-1][2].append(_Hunk(max(0, int(found[1]) - (found[2] != "0"))))
        elif changes and changes[-1][2] and line[:1] in ("", " ", "-", "+"):
            changes[-1][2][-1].add(line)
    return changes


def _path(line: str) -> str:
    """The path of a `---` or `+++` line without a/ or b/ and time."""
    path = line[4:].split("\t")[0].strip()
    return path[2:] if path.startswith(("a/", "b/")) else path


def _apply(text: str, hunks: list[_Hunk], path: str) -> str:
    lines = text.splitlines()
    done = 0  # lines before this belong to hunks that are applied
    shift = 0
    for number, hunk in enumerate(hunks, start=1):
        place = _find(lines, hunk.old, hunk.start + shift, done)
        if place is None:
            raise PatchFailed(f"hunk {number} does not fit {path}")
        lines[place : place + len(hunk.old)] = hunk.new
        shift += len(hunk.new) - len(hunk.old)
        done = place + len(hunk.new)
    return "".join(line + "\n" for line in lines)


def _find(lines: list[str], old: list[str], near: int, first: int) -> int | None:
    """Where `old` stands in `lines` from `first` on, nearest to `near`."""
    places = [i for i in range(first, len(lines) - len(old) + 1) if lines[i : i + len(old)] == old]
    return min(places, key=lambda i: abs(i - near), default=None)
