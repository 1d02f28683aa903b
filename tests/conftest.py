"""Every test runs offline, and on one thread: two tests at a time fill two cores, and threads that wait cost more."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

DRIVEN = {"browser", "page"}
TERMINALS = {"test_chat.py", "test_show.py", "test_progress.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What drives a browser or a terminal has one more try, which the summary names: keys go to another process."""
    for item in items:
        if DRIVEN & set(getattr(item, "fixturenames", ())) or item.path.name in TERMINALS:
            item.add_marker(pytest.mark.flaky(reruns=1))
