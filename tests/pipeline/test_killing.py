"""Real processes, really killed: what a run directory looks like afterwards, and how it continues."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinkery.pipeline.artifact import load_artifact
from thinkery.pipeline.branch import branch
from thinkery.pipeline.lock import holder
from thinkery.pipeline.read import open_run

TOY = Path(__file__).parent / "toy.py"


def start(run: Path, *arguments: str) -> subprocess.Popen:
    """A toy run in a process of its own, returned as soon as its imports are done."""
    command = [sys.executable, str(TOY), str(run), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """The exit code and what went to stderr."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def wait_for(condition) -> None:
    """Until `condition()` holds, a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def contents(run: Path) -> dict[str, object]:
    """Everything in a finished run that must not depend on how often it was killed."""
    record = open_run(run)
    found: dict[str, object] = {}
    for name, artifact in record.artifacts.items():
        artifact.verify()
        found[name] = (artifact.manifest["content"], artifact.manifest.get("funnel"), artifact.manifest.get("rows"))
        for path in artifact.folder.iterdir():
            found[f"{name}/{path.name}"] = path.read_bytes()
        for n in record.rollout_steps(name):
            found[f"{name}/rollouts/{n}"] = record.rollouts(name, n)
        found[f"{name}/metrics"] = [(row["step"], row["reward/mean"]) for row in record.metrics(name)]
        numbers = [row["number"] for row in record.events() if row["kind"] == "stepped" and row["step"] == name]
        found[f"{name}/events"] = numbers
    return found


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path):
    steady, killed = tmp_path / "steady", tmp_path / "killed"
    assert finish(start(steady)) == (0, "")
    moments, attempts = random.Random(), 0
    while True:
        attempts += 1
        process = start(killed)
        try:
            process.wait(timeout=moments.uniform(0.02, 0.6) if attempts < 9 else 60)
        except subprocess.TimeoutExpired:
            process.kill()
        code, errors = finish(process)
        assert code in (0, -signal.SIGKILL), errors
        if code == 0:
            break
    assert attempts > 1
    assert contents(killed) == contents(steady)
    record = open_run(killed)
    assert [row["step"] for row in record.metrics("weights")] == list(range(1, 61))
    assert 1 < len(record.attempts) <= attempts, "an attempt killed at once may not be noted"
    assert load_artifact(record.steps["rows"].path).manifest["funnel"] == {"made": 60, "wrong": 20}
    assert not list(killed.glob("steps/*/checkpoints")), "a finished step keeps no checkpoints"


def test_a_branch_that_is_killed_before_its_first_checkpoint_goes_on(tmp_path):
    assert finish(start(tmp_path / "old", "--pause", "0", "--die", "10"))[0] == -signal.SIGKILL
    branch(tmp_path / "old", "chain", tmp_path / "new")
    for _ in range(8):
        assert finish(start(tmp_path / "new", "--pause", "0", "--die", "3")) == (-signal.SIGKILL, "")
    assert finish(start(tmp_path / "new", "--pause", "0")) == (0, "")
    rung = [row for row in open_run(tmp_path / "new").events() if row["kind"] == "stepped" and row["step"] == "chain"]
    assert [row["number"] for row in rung] == list(range(8, 61)), "the branch went on from 7, and nothing is told twice"


def test_what_a_step_told_stays_though_the_same_step_with_other_settings_goes_on_between(tmp_path):
    other = ("--steps", "50")
    for words in ((), other, (), other):
        assert finish(start(tmp_path, "--pause", "0", "--die", "10", *words)) == (-signal.SIGKILL, "")
    for words in (other, ()):
        assert finish(start(tmp_path, "--pause", "0", *words)) == (0, "")
        record = open_run(tmp_path)
        keys = {step.key[:8] for step in record.steps.values() if step.name == "chain"}
        told = [row["number"] for row in record.events() if row["kind"] == "stepped" and row["key"] in keys]
        assert told == list(range(1, 51 if words else 61))


def test_a_terminal_that_is_gone_keeps_no_run_from_its_checkpoint(tmp_path):
    process = start(tmp_path, "--pause", "0.02")
    wait_for(lambda: list(tmp_path.glob("steps/chain-*/rollouts/000009.jsonl.gz")))
    assert process.stdout
    assert process.stderr
    process.stderr.close()  # as when `2>&1 | tee log` has had the same Ctrl-C
    process.send_signal(signal.SIGINT)
    process.wait(60)
    process.stdout.close()
    assert open_run(tmp_path).attempts[-1]["outcome"] == "stopped"
    partial = next(tmp_path.glob("steps/chain-*.partial"))
    stopped_at = int(sorted(os.listdir(partial / "checkpoints"))[-1][5:])
    assert len((partial / "metrics.jsonl").read_text().splitlines()) == stopped_at > 7


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path):
    first = start(tmp_path, "--pause", "5")
    wait_for(lambda: holder(tmp_path) == first.pid)
    code, errors = finish(start(tmp_path))
    first.kill()
    finish(first)
    assert code == 1
    assert "Busy" in errors
    assert f"process {first.pid}" in errors
    assert finish(start(tmp_path, "--pause", "0"))[0] == 0, "a killed process leaves no lock"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_stops_after_a_checkpoint_and_the_same_command_continues(tmp_path, number):
    process = start(tmp_path / "run", "--pause", "0.02")
    wait_for(lambda: list(tmp_path.glob("run/steps/chain-*/rollouts/000009.jsonl.gz")))
    process.send_signal(number)
    code, errors = finish(process)
    assert code == 75, errors
    assert "the same command continues" in errors
    partial = next(tmp_path.glob("run/steps/chain-*.partial"))
    stopped_at = int(sorted(os.listdir(partial / "checkpoints"))[-1][5:])
    assert len((partial / "metrics.jsonl").read_text().splitlines()) == stopped_at, "nothing was lost"
    assert open_run(tmp_path / "run").attempts[-1]["outcome"] == "stopped"
    assert open_run(tmp_path / "run").steps["chain"].status == "stopped"
    assert finish(start(tmp_path / "run", "--pause", "0"))[0] == 0
    assert finish(start(tmp_path / "steady", "--pause", "0"))[0] == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "steady")


def test_a_second_signal_aborts(tmp_path):
    process = start(tmp_path, "--pause", "0.05", "--deaf")
    wait_for(lambda: list(tmp_path.glob("steps/chain-*/metrics.jsonl")))
    process.send_signal(signal.SIGINT)
    assert process.stderr
    assert (process.stderr.readline(), process.stderr.readline()[:8]) == ("\n", "stopping")
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130


def test_no_room_for_a_checkpoint_is_a_clear_error_and_loses_nothing_written(tmp_path):
    code, errors = finish(start(tmp_path / "run", "--pause", "0", "--weight", "300000", "--limit", "200000"))
    assert code == 1
    assert "DiskFull" in errors
    assert "step-000007" in errors
    partial = next(tmp_path.glob("run/steps/chain-*.partial"))
    assert list((partial / "checkpoints").iterdir()) == [], "no half checkpoint is left"
    assert finish(start(tmp_path / "run", "--pause", "0", "--weight", "300000"))[0] == 0
    assert finish(start(tmp_path / "steady", "--pause", "0", "--weight", "300000"))[0] == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "steady")


def test_a_device_that_fills_up_is_a_clear_error_and_the_run_continues_elsewhere_sized(tmp_path):
    device = tmp_path / "device"
    device.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(device)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        code, errors = finish(start(device / "run", "--pause", "0"))
        assert (code, "DiskFull" in errors) == (75, True), "it had come to a checkpoint"
        code, errors = finish(start(device / "run", "--pause", "0"))
        assert (code, "DiskFull" in errors) == (1, True), "trying again is in vain, which ends a job queue's attempts"
        for path in device.glob("run/steps/*/rollouts/*.gz"):
            gzip.decompress(path.read_bytes())
        subprocess.run(["mount", "-o", "remount,size=20m", str(device)], check=True)
        assert finish(start(device / "run", "--pause", "0"))[0] == 0
        assert finish(start(tmp_path / "steady", "--pause", "0"))[0] == 0
        assert contents(device / "run") == contents(tmp_path / "steady")
    finally:
        subprocess.run(["umount", str(device)], check=True)
