"""Imports go up the layer table of docs/architecture.md only, and light layers load without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinkery

PACKAGE = Path(thinkery.__file__).parent

LAYERS = (
    ("errors",),
    ("core", "config"),
    ("chat", "process", "sandbox", "pipeline"),
    ("model", "tasks", "sinks"),
    ("engine",),
    ("rewards",),
    ("rollout",),
    ("train", "data", "evals"),
    ("stages",),
    ("recipes", "serve", "view", "launch"),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

WITHOUT_TORCH = (
    *(
        "errors",
        "core",
        "config",
        "chat",
        "process",
        "sandbox",
        "pipeline",
        "tasks",
        "sinks",
        "data",
        "rewards",
        "cli",
        "view",
    ),
)
WITH_TORCH = (PACKAGE / "rewards" / "preference.py",)

FILES = sorted(PACKAGE.rglob("*.py"))
FILE_IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


def part_of(path: Path) -> str:
    """The package or module of the layer table that a file belongs to; "" for thinkery/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_file_belongs_to_a_layer() -> None:
    assert {part_of(path) for path in FILES} - {""} <= set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=FILE_IDS)
def test_imports_only_look_up(path: Path) -> None:
    own = part_of(path)
    wrong = []
    for line, module in imports(path):
        root, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if root == "thinkery" and other in LEVEL and own and other != own and LEVEL[other] >= LEVEL[own]:
            wrong.append(f"line {line}: {own} (layer {LEVEL[own]}) imports {module} (layer {LEVEL[other]})")
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=FILE_IDS)
def test_no_import_is_relative(path: Path) -> None:
    relative = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative


def test_light_layers_load_without_torch() -> None:
    files = [path for path in FILES if part_of(path) in WITHOUT_TORCH and path not in WITH_TORCH]
    modules = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files]
    modules = [module.removesuffix(".__init__") for module in modules]
    code = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        "    if 'torch' in sys.modules: sys.exit(module + ' imports torch')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
