"""`thinkery doctor --cluster`: the machines of a Ray cluster and the ranks of torchrun, before a run needs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from thinkery.launch.local import environments
from thinkery.launch.preflight import look

DOCTOR = [sys.executable, "-m", "thinkery.cli", "doctor", "--json", "--cluster"]


def test_ranks_say_what_they_have_and_add_up_together():
    began = [
        subprocess.Popen(DOCTOR, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
        for environment in environments(2).values()
    ]
    told = [process.communicate(timeout=240)[0] for process in began]
    assert [process.returncode for process in began] == [0, 0]
    checks = json.loads(told[0])
    assert told[1] == ""
    assert [check["name"].split(" on ")[0] for check in checks] == ["rank 0", "rank 1", "adding up"]
    assert {check["state"] for check in checks} == {"ok"}


def test_a_machine_with_another_version_is_named_with_both():
    here = look("here")
    there = replace(here, versions={**here.versions, "thinkery": "0.0.1"})
    assert here.differs(here) == ""
    assert there.differs(here) == f"thinkery 0.0.1 instead of {here.versions['thinkery']}"


@pytest.mark.slow
@pytest.mark.flaky(reruns=2)  # Ray gives up where its own processes take longer than 30 s to start
def test_every_machine_of_a_ray_cluster_is_looked_at():
    pytest.importorskip("ray", reason="thinkery[ray] is not installed")
    done = subprocess.run([*DOCTOR, "local"], capture_output=True, text=True, timeout=240, check=True)
    here, machine = json.loads(done.stdout)
    assert here["state"] == machine["state"] == "ok"
    assert machine["found"] == here["found"]
