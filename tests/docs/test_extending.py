"""Every Python block of the documentation is a file that runs in an empty folder, every TOML block a valid recipe."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from thinkery.cli import recipe

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list:
    """Every block of a language, as (section, code) with an id that says where it stands."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            section = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)[-1]
            found.append(pytest.param(match[1], id=f"{page.name}: {section}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_block_runs_in_an_empty_folder(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "example.py"
    file.write_text(code, encoding="utf-8")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    runpy.run_path(str(file), run_name="example")


@pytest.mark.parametrize("code", blocks("toml"))
def test_a_toml_block_is_a_recipe_that_loads_and_wires(code: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(code, encoding="utf-8")
    assert recipe.open_recipe([str(file)], environ={}).graph()


def test_every_seam_has_an_example() -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[([^]]+)\]", text, re.MULTILINE)
    shown = [section for section in re.split(r"^## ", text, flags=re.MULTILINE) if "```python" in section]
    assert [section.partition("\n")[0].lower() for section in shown] == linked
