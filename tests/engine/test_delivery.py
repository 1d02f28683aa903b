"""Whether an engine has the weights that it was given: its version and its canary say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkery.engine.delivery import InFolder, Snapshot
from thinkery.errors import RunFailed

SNAPSHOT = Snapshot(InFolder(Path("nowhere")), 3, canary=(5, 6, 7), expected=(-1.0, -2.0))


@pytest.mark.parametrize("version", [3, "3"], ids=["ours", "of vLLM"])
def test_the_right_version_with_the_learners_log_probabilities_is_let_pass(version):
    SNAPSHOT.check(version, (-1.0, -2.001), tolerance=1e-3)


@pytest.mark.parametrize("version", [2, "2", "3.1", "default"])
def test_another_version_ends_the_run_though_the_log_probabilities_are_right(version):
    with pytest.raises(RunFailed, match=rf"did not take the new weights \(found version {version} instead of 3\)"):
        SNAPSHOT.check(version, SNAPSHOT.expected, tolerance=1e-3)


@pytest.mark.parametrize("canary", [(-1.0, -2.01), (float("nan"), -2.0)], ids=["other", "not finite"])
def test_other_log_probabilities_end_the_run_though_the_version_is_right(canary):
    with pytest.raises(RunFailed, match=r"does not sample from version 3 .*over 0\.001"):
        SNAPSHOT.check(3, canary, tolerance=1e-3)
