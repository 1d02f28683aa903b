"""What the documentation names exists: files, functions, layers, settings with their defaults, commands, the tree."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from thinkery.cli.main import VERBS, parse
from thinkery.config import Loaded, resolved
from thinkery.recipes.r1 import R1

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "thinkery"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "LOG.md")] + sorted((ROOT / "docs").glob("*.md"))
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

PATH = re.compile(r"(?P<file>[\w./-]+\.(?:py|toml|md|txt))(?::(?P<name>[\w.]+))?")
READERS_OWN = re.compile(r"(my|mine|recipe|THIS)\.\w+|runs/.*")
"""Files that a page tells its reader to write."""


def quoted(page: Path) -> list[str]:
    """Everything between single backticks, and the lines of shell blocks without their comments."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [line.partition("  #")[0].strip() for line in lines] + re.findall(r"`([^`\n]+)`", plain)


def find(file: str) -> Path | None:
    """Where a named file is: below the checkout or below the package."""
    return next((base / file for base in (ROOT, PACKAGE) if (base / file).exists()), None)


def defines(file: Path, name: str) -> bool:
    """Whether a Python file defines a name, or a name inside a class of it."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = next((node for node in body if part in names_of(node)), None)
        if found is None:
            return False
        body = getattr(found, "body", [])
    return True


def names_of(node: ast.stmt) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


@EACH_PAGE
def test_every_file_and_name_on_a_page_exists(page: Path) -> None:
    wrong = []
    for text in quoted(page):
        match = PATH.fullmatch(text)
        if match is None or READERS_OWN.fullmatch(match["file"]):
            continue
        file = find(match["file"])
        if file is None or (match["name"] and not defines(file, match["name"])):
            wrong.append(text)
    assert not wrong


@EACH_PAGE
def test_every_folder_on_a_page_exists(page: Path) -> None:
    folders = [text for text in quoted(page) if re.fullmatch(r"[a-z][a-z_/]*/", text)]
    of_runs = {"model/", "data/", "report/", "attempts/"} if page.name == "record.md" else set()
    assert [text for text in folders if text not in of_runs and find(text) is None] == []


@EACH_PAGE
def test_every_command_on_a_page_parses(page: Path) -> None:
    commands = [shlex.split(text.replace("…", "x"))[1:] for text in quoted(page) if text.startswith("thinkery ")]
    assert {words[0] for words in commands} <= VERBS.keys() | {"--help"}
    assert [words for words in commands if len(words) > 1 and not parses(words)] == []  # a verb alone is a mention


def parses(words: list[str]) -> bool:
    """Whether argparse takes a command line."""
    try:
        parse(words)
    except SystemExit as stop:
        return not stop.code
    return True


def test_the_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {text.split()[1] for page in PAGES for text in quoted(page) if re.match(r"make [a-z]", text)}
    assert {"demo", "test"} <= named <= targets


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `thinkery (\w+)", readme, re.M) == list(VERBS)


def test_the_tree_of_the_readme_is_the_package() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^[├└]── ([\w.]+)", readme, re.M)
    package = {path.name for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert set(drawn) == package
    assert len(drawn) == len(package)


def test_the_layer_table_is_the_one_that_is_enforced() -> None:
    layers = runpy.run_path(str(ROOT / "tests" / "test_layers.py"))["LAYERS"]
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", table, re.M)
    assert [tuple(re.findall(r"`(\w+)`", row)) for row in rows] == [tuple(names) for names in layers]


def test_the_settings_of_the_paper_page_are_the_defaults() -> None:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    written = dict(re.findall(r"^\| `([a-z_.]+)` \| `([^`]+)` \|", page, re.M))
    now = resolved(Loaded(R1(), {}, {}))
    assert {key: json.loads(text) for key, text in written.items()} == {key: now[key].value for key in written}
    assert len(written) > 40
