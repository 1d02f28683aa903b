"""Where the tests find vLLM: `THINKERY_VLLM`, or the environment that docs/performance.md says how to make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PYTHON = Path(os.environ.get("THINKERY_VLLM", "~/.cache/thinkery-bench/vllm/bin/python")).expanduser()
"""The Python of an environment with vLLM."""


def vllm_python() -> str:
    """That Python; the test is skipped where it is not installed."""
    if not PYTHON.is_file():
        pytest.skip(f"needs vLLM: no {PYTHON} (docs/performance.md says how to install it)")
    return str(PYTHON)
