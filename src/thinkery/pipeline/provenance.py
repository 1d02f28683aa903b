"""Which code and which packages did the work."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import thinkery

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "math-verify")


def versions() -> dict[str, str]:
    """The versions of Thinkery, Python and the packages that numbers may depend on, read without importing them."""
    found = {"thinkery": thinkery.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The last git commit of Thinkery's own source, with "-dirty" when files differ from it; "" outside a checkout."""
    last = _git("log", "-1", "--format=%H", "--", ".")
    return last + "-dirty" if last and _git("status", "--porcelain", "--", ".") else last


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(thinkery.__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
