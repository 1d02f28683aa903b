"""What the documentation names exists: files, functions, layers, settings with their defaults, commands, the tree."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from thinkery.cli.main import VERBS, parse
from thinkery.config import Loaded, resolved, schema
from thinkery.recipes import RECIPES
from thinkery.recipes.r1 import R1
from thinkery.serve.config import Serve

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "thinkery"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "LOG.md")] + sorted((ROOT / "docs").glob("*.md"))
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

PATH = re.compile(r"(?P<file>[\w./-]+\.(?:py|toml|md|txt))(?::(?P<name>[\w.]+))?")
SETTING = re.compile(
    r"(?<![\w./-])(?:(THINKERY_SET_\w+|[a-z_]+(?:\.\w+)+)=|[a-z_]+\.(?:grpo|sft|policy|engine|sampling)(?:\.\w+)+)"
)
"""A dotted key that is given a value, or that goes through a table which only settings have."""
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


@EACH_PAGE
def test_every_setting_that_a_page_lets_explain_is_there(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in quoted(page):
        if text.startswith("thinkery config explain ") and "KEY" not in text:
            args = parse(shlex.split(text)[1:])
            args.action(args)
            assert capsys.readouterr().out.startswith(args.key)


@EACH_PAGE
def test_every_setting_on_a_page_exists(page: Path) -> None:
    assert unknown_settings([page.read_text(encoding="utf-8")]) == []


def test_every_setting_in_a_help_text_a_hint_or_a_docstring_exists() -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = [node.value for node in nodes if isinstance(node.value, str)]
    assert sum(len(SETTING.findall(text)) for text in texts) > 10
    assert unknown_settings(texts) == []


def test_a_setting_that_does_not_exist_is_found_in_each_of_its_forms() -> None:
    wrong = ["zero.grpo.steps", "zero.grpo.clip", "zero.grpo.steps"]
    texts = ["say zero.grpo.steps=200,", "such as zero.grpo.clip", "THINKERY_SET_zero__grpo__steps=200"]
    assert unknown_settings([*texts, "zero.grpo.clip_low=10 grpo.policy.lr zero.grpo.policy limits.queue_s=3"]) == wrong


def unknown_settings(texts: Sequence[str]) -> list[str]:
    """The dotted keys in texts that are no setting of a recipe or of the server, whole or as its stage knows it."""
    named = [match.group(1) or match.group() for text in texts for match in SETTING.finditer(text)]
    keys = [key.removeprefix("THINKERY_SET_").replace("__", ".").removeprefix("cfg.") for key in named]
    return [key for key in keys if key not in known_settings()]


@cache
def known_settings() -> set[str]:
    """The dotted key of every setting and of every table, whole and without what is above it."""
    schemas = [schema(kind) for kind in (Serve, *(kind for kind, _ in RECIPES.values()))]
    keys = [key for one in schemas for key in keys_below(one, one["$defs"])]
    return {".".join(key[first:]) for key in keys for first in range(len(key))}


def keys_below(
    node: Mapping[str, Any], named: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """The parts of every key that a JSON Schema allows, optional tables included."""
    if "$ref" in node:
        node = named[node["$ref"].rpartition("/")[2]]
    for one in node.get("anyOf", ()):
        yield from keys_below(one, named, above)
    for name, below in node.get("properties", {}).items():
        yield (*above, name)
        yield from keys_below(below, named, (*above, name))


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
