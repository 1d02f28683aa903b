"""A process of its own: what it does before it begins to work."""

from __future__ import annotations

import gc
import weakref
from multiprocessing.connection import Connection

from thinkery.process import settle, start_process


class Knot:
    """Something that only the garbage collector can free."""

    def __init__(self) -> None:
        self.itself = self


def settled(connection: Connection) -> None:
    """Say how many objects the collector looks at, before and after, and whether it still frees what comes later."""
    before = len(gc.get_objects())
    settle()
    knot = weakref.ref(Knot())
    gc.collect()
    connection.send((before, len(gc.get_objects()), knot() is None))
    connection.recv()


def test_what_a_process_has_imported_is_not_looked_through_again() -> None:
    connection, process = start_process(settled)
    before, after, freed = connection.recv()
    connection.close()
    process.join(10)
    assert before > 50_000  # PyTorch's
    assert after < before / 20
    assert freed
