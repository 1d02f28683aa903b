"""thinkery doctor: what there is, what lacks, and the exit code that scripts look at."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from thinkery.cli import doctor
from thinkery.cli.serve import NEEDED

ROOT = Path(__file__).parents[2]


def test_doctor_finds_what_this_environment_has(thinkery, tmp_path: Path) -> None:
    code, out, _ = thinkery("doctor", "--json", "--dir", tmp_path)
    checks = {check["name"]: check for check in json.loads(out)}
    assert code == 0
    assert all(checks[name]["state"] == "ok" for name in ("python", "torch", "disk", *doctor.REQUIRED))


def test_a_required_package_that_is_missing_is_exit_code_5_with_its_command(thinkery, monkeypatch) -> None:
    monkeypatch.setitem(doctor.REQUIRED, "no-such-package", "pip install no-such-package")
    code, out, _ = thinkery("doctor")
    (line,) = (line for line in out.splitlines() if "no-such-package" in line)
    assert code == 5
    assert line.startswith("lacks")
    assert line.endswith("pip install no-such-package")


def test_doctor_looks_for_every_package_of_the_server_and_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {re.split("[<>=]", package)[0] for package in extras["serve"]} == set(NEEDED)
    seen = doctor.version

    def without_uvloop(name: str) -> str:
        if name == "uvloop":
            raise doctor.PackageNotFoundError(name)
        return seen(name)

    monkeypatch.setattr(doctor, "version", without_uvloop)
    checks = {check.name: check for check in doctor.examine(Path())}
    uvloop = checks["uvloop"]
    assert (uvloop.found, uvloop.command) == ("not installed; for thinkery serve", "pip install 'thinkery[serve]'")
    assert all(checks[name].state == "ok" for name in NEEDED if name != "uvloop")


def test_an_optional_program_that_is_missing_is_named_with_what_it_is_for(monkeypatch) -> None:
    monkeypatch.setitem(doctor.PROGRAMS, "no-such-program", ("flying", "apt-get install wings"))
    check = next(c for c in doctor.examine(Path()) if c.name == "no-such-program")
    assert (check.state, check.found, check.command) == ("optional", "not found; for flying", "apt-get install wings")


def test_free_memory_is_less_than_all_of_it() -> None:
    total, free = doctor.memory()
    assert 0 < free < total
