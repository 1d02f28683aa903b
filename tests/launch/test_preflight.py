"""`thinkery doctor --cluster`: the machines of a Ray cluster and the ranks of torchrun, before a run needs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bench.nodes import PORT, QUICK, Node, open_nodes

import thinkery
from thinkery.errors import EnvironmentLacks
from thinkery.launch.local import environments
from thinkery.launch.preflight import look

DOCTOR = [sys.executable, "-m", "thinkery.cli", "doctor", "--json", "--cluster"]


@pytest.fixture
def changed(tmp_path: Path) -> dict[str, str]:
    """An environment in which Thinkery is another checkout of the same version, with one file changed."""
    package = Path(thinkery.__file__).parent
    shutil.copytree(package, tmp_path / "thinkery", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "thinkery/rewards/format.py").open("a") as file:
        file.write("\n# changed\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


def doctor_of_ranks(*others: dict[str, str]) -> tuple[list[int], list[dict[str, str]]]:
    """The exit codes and what rank 0 says of two ranks, the second of which has more in its environment."""
    began = [
        subprocess.Popen(DOCTOR, env={**os.environ, **place, **other}, stdout=subprocess.PIPE, text=True)
        for place, other in zip(environments(2).values(), ({}, *others), strict=True)
    ]
    told = [process.communicate(timeout=240)[0] for process in began]
    assert told[1] == ""
    return [process.returncode for process in began], json.loads(told[0])


def test_ranks_say_what_they_have_and_add_up_together():
    codes, checks = doctor_of_ranks({})
    assert codes == [0, 0]
    assert [check["name"].split(" on ")[0] for check in checks] == ["rank 0", "rank 1", "adding up"]
    assert {check["state"] for check in checks} == {"ok"}


def test_two_checkouts_that_call_themselves_the_same_version_are_told_apart(changed):
    codes, checks = doctor_of_ranks(changed)
    assert codes[0] == 5
    assert [check["state"] for check in checks] == ["ok", "lacks", "ok"]
    assert checks[1]["found"] == "other contents of thinkery/rewards/format.py"


def test_a_machine_with_another_version_is_named_with_both():
    here = look("here")
    there = replace(here, versions={**here.versions, "thinkery": "0.0.1"})
    assert here.differs(here) == ""
    assert there.differs(here) == f"thinkery 0.0.1 instead of {here.versions['thinkery']}"
    assert {"safetensors", "math-verify"} <= here.versions.keys()


def test_vllm_is_compared_where_it_is_installed_and_of_many_files_three_are_named():
    here = replace(look("here"), versions={"python": "3.11.2", "thinkery/a.py": "00"})
    one, two = (replace(here, versions={**here.versions, "vllm": version}) for version in ("0.20.0", "0.21.0"))
    assert (one.differs(here), here.differs(one)) == ("", "")
    assert two.differs(one) == "vllm 0.21.0 instead of 0.20.0"
    many = replace(here, versions={**here.versions, **{f"thinkery/{name}.py": "11" for name in "abcde"}})
    assert many.differs(here) == "other contents of thinkery/a.py, thinkery/b.py, thinkery/c.py and 2 more"


@pytest.mark.slow
@pytest.mark.flaky(reruns=2)  # Ray gives up where its own processes take longer than 30 s to start
def test_every_machine_of_a_ray_cluster_is_looked_at():
    pytest.importorskip("ray", reason="thinkery[ray] is not installed")
    done = subprocess.run([*DOCTOR, "local"], capture_output=True, text=True, timeout=240, check=True)
    here, machine = json.loads(done.stdout)
    assert here["state"] == machine["state"] == "ok"
    assert machine["found"] == here["found"]


def doctor_of_nodes(head: Node, wait_s: int) -> tuple[int, dict[str, str]]:
    """The exit code, and what is found of every machine of the head's cluster besides this one."""
    words = [*DOCTOR, f"{head.address}:{PORT}", "--wait", str(wait_s)]
    with head.popen(words, stdout=subprocess.PIPE, text=True) as doctor:
        told, _ = doctor.communicate(timeout=240)
    return doctor.returncode, {check["name"]: check["found"] for check in json.loads(told)[1:]}


@pytest.mark.slow
@pytest.mark.flaky(reruns=2)
def test_a_machine_of_a_ray_cluster_that_differs_or_is_silent_is_named_and_the_others_answer(changed, monkeypatch):
    pytest.importorskip("ray", reason="thinkery[ray] is not installed")
    monkeypatch.setitem(QUICK, "RAY_health_check_failure_threshold", "100")  # or Ray gives up what is only silent
    try:
        with open_nodes(2) as (head, other):
            head.start_head(processors=1)
            other.environ |= changed
            other.start_ray(head, processors=1)
            until = time.monotonic() + 120
            while other.address not in (found := doctor_of_nodes(head, 60))[1]:
                assert time.monotonic() < until, found
            code, said = found
            here = said[head.address]
            assert code == 5
            assert here.endswith(f"thinkery {thinkery.__version__}")
            assert said == {head.address: here, other.address: "other contents of thinkery/rewards/format.py"}
            for pid in other.pids():
                os.kill(pid, signal.SIGSTOP)
            assert doctor_of_nodes(head, 6) == (5, {head.address: here, other.address: "no answer in 6 s"})
    except EnvironmentLacks as lacks:
        pytest.skip(str(lacks))
