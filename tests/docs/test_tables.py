"""The tables of the pages are those of the committed results."""

import json

import pytest
from bench.tables import RESULTS, ROOT, TABLES, filled


@pytest.mark.parametrize("name", TABLES)
def test_a_page_shows_what_was_measured(name: str) -> None:
    page, result, write = TABLES[name]
    if not (RESULTS / result).exists():
        pytest.skip(f"bench/results/{result} is not there yet")
    text = (ROOT / page).read_text()
    assert f"<!-- {name} -->" in text
    assert filled(text, name, write(json.loads((RESULTS / result).read_text()))) == text, "run python -m bench.tables"
