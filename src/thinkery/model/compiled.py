"""C++ from Python: compiled for this processor on first use, kept in the user's cache, called by ctypes.

What a file computes is said beside it: `engine/native/kernels.cpp` and `int8.cpp`, `train/kernels.cpp`. All of them
include `vectors.h` and `products.h`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from thinkery.errors import EnvironmentLacks
from thinkery.pipeline.files import sync_path

HEADERS = Path(__file__).parent
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC"),
    f"-I{HEADERS}",
)

PANEL = 32
"""Outputs whose weights lie side by side (`products.h`)."""


def up(n: int, to: int) -> int:
    """The next multiple."""
    return -(-n // to) * to


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None where there is none."""
    return None if tensor is None else tensor.data_ptr()


def compiler() -> str | None:
    """The C++ compiler, where there is one."""
    return shutil.which(os.environ.get("CXX", "g++"))


def function(source: Path, name: str, *, pointers: int, integers: int = 0, floats: int = 0) -> ctypes._NamedFuncPointer:
    """A function of the file that takes so many pointers, then integers, then floats."""
    found = getattr(library(source), name)
    found.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * integers + [ctypes.c_float] * floats
    found.restype = None
    return found


@cache
def library(source: Path) -> ctypes.CDLL:
    """The functions of a file; compiles them where nobody has on this processor (seconds), for all who come later.

    Raises EnvironmentLacks with what the compiler says when it fails.
    """
    path = folder() / f"kernels-{fingerprint(source)}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as made:
            new = Path(made) / path.name
            command = [str(compiler()), *FLAGS, str(source), "-o", str(new)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise EnvironmentLacks(
                    "our C++ kernels do not compile",
                    where=" ".join(command),
                    found=done.stderr.strip()[-2000:],
                    hint='repair the compiler, or set kernels = "torch", of the engine and of the policy, and no'
                    " quantization",
                )
            sync_path(new)  # what a power cut emptied would stand under this name for ever
            new.replace(path)
    return ctypes.CDLL(str(path))


def folder() -> Path:
    """Where compiled kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thinkery"


def fingerprint(source: Path) -> str:
    """Names what was compiled, how, by what and for which processor."""
    version = subprocess.run([str(compiler()), "--version"], capture_output=True, text=True).stdout
    parts = (
        source.read_text(),
        *(header.read_text() for folder in (HEADERS, source.parent) for header in sorted(folder.glob("*.h"))),
        *FLAGS[:-1],
        version,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        processor(),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """What the processor can do, as Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
