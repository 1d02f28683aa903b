from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from thinkery.sandbox import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    with Pool(workers=2) as pool:
        yield pool
