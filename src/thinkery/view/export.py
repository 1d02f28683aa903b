"""The pages as files, which any browser opens and any file server serves; the same templates, links between files.

A site of everything would have a page for each question of each step, so it shows some steps only, the first and the
newest among them. Laying runs over each other fetches, which browsers allow on `http:` and not on `file:`.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import httpx
from starlette.applications import Starlette

from thinkery.errors import UsageError
from thinkery.pipeline.files import write_file, write_folder
from thinkery.view.app import ASSETS, HERE, Links, create_app
from thinkery.view.library import Library

INDEX = "index.html"


class StaticLinks(Links):
    """Addresses of files relative to one page; every file that is named is noted, to be written as well."""

    static = True

    def __init__(self, depth: int, named: dict[str, str]) -> None:
        super().__init__(depth)
        self._named = named

    def __call__(self, *parts: object, file: str = "") -> str:
        """The address of a page's file."""
        address = "/" + "".join(f"{quote(str(part), safe='')}/" for part in parts) + file
        path = "/".join([*map(file_name, parts), file or INDEX])
        self._named.setdefault(path, address)
        return self._up + path

    def pattern(self, *parts: object) -> str:
        """An address with a word to be replaced by a script."""
        return self._up + "/".join([*map(file_name, parts), INDEX])

    def asset(self, name: str) -> str:
        """The address of a style, a script or a font."""
        return f"{self._up}{ASSETS}/{name}"


def write_site(library: Library, ledger: Path, folder: Path) -> int:
    """Write every page that can be reached into a new or empty folder, or nothing; returns how many files."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError("the folder is not empty", where=str(folder), hint="--export with a new folder")
    named: dict[str, str] = {INDEX: "/"}
    app = create_app(library, ("site",), ledger, lambda depth: StaticLinks(depth, named))
    written = 0

    def write(made: Path) -> None:
        nonlocal written
        shutil.copytree(HERE / "static", made / ASSETS)
        with ThreadPoolExecutor(1) as pool:  # a thread has no event loop yet, whoever calls: a notebook has one
            written = pool.submit(asyncio.run, _write_named(app, named, made)).result()

    write_folder(folder, write)
    return written


async def _write_named(app: Starlette, named: dict[str, str], folder: Path) -> int:
    """Write every named file, and those that are named by them; returns how many."""
    left, written = deque(named), 0
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        while left:
            path, known = left.popleft(), len(named)
            answer = await client.get(named[path])
            if answer.status_code == 200:
                write_file(folder / path, answer.content, sync=False)
                written += 1
            left.extend(list(named)[known:])
    return written


def file_name(part: object) -> str:
    """A part of an address as the name of a file that every system can have."""
    text = str(part)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "~", text)[:80].lstrip(".")
    return plain if plain == text else f"{plain}~{sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"
