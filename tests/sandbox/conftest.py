from __future__ import annotations

from collections.abc import Iterator

import pytest

from thinkery.sandbox import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    with Pool(workers=2) as pool:
        yield pool
