"""Many clients that come and go at random: nothing leaks, nobody's answer changes, every token is on a bill."""

from __future__ import annotations

import pytest
from bench.vanishing import vanishing


@pytest.mark.slow
def test_a_thousand_clients_that_vanish_leave_nothing_behind(thinker, tmp_path):
    found = vanishing(str(thinker), tmp_path, clients=1000, seconds=30.0)
    assert found["holds"] == dict.fromkeys(found["holds"], True), found
    assert min(found["answered_to_the_end"], found["vanished"], found["charged_as_cancelled"]) > 100
