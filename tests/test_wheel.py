"""The package as users get it: built, installed in an empty environment, run outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, cwd=ROOT)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_both_bases_in_eight_megabytes_and_no_public_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "thinkery/assets/base/model.safetensors" in names
    assert "thinkery/assets/student/model.safetensors" in names
    assert "thinkery/recipes/tiny.toml" in names
    assert wheel.stat().st_size < 9_000_000
    data = [name for name in names if not name.endswith(".py")]
    assert not any(word in name for name in data for word in ("gsm8k", "aime", "alpaca", "jsonl"))


@pytest.mark.slow
def test_the_wheel_runs_the_recipe_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """The new environment sees this one's dependencies through a .pth file, so that nothing is downloaded."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import thinkery; print(thinkery.__file__)", cwd=tmp_path)
    assert str(venv) in where
    small = ("exam.sources.0.limit=8", "exam.sources.1.limit=6", "zero.grpo.updates=1", "evaluate.samples=1")
    run(python, "-m", "thinkery.cli", "run", "tiny", "--until", "zero", "--dir", "run", *small, cwd=tmp_path)
    shown = run(python, "-m", "thinkery.cli", "show", "run:zero", cwd=tmp_path)
    assert "base" in shown
