"""Before a run on several machines: do they answer, and do they have the same code? `thinkery doctor --cluster`.

Of a Ray cluster, every machine is asked alone. Of ranks, each says what it has, and they add up numbers together as
training does: `torchrun --nnodes 2 … -m thinkery.cli doctor --cluster`. Thinkery itself is compared file by file, since
two checkouts of one version may differ.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import thinkery
from thinkery.pipeline.pulse import Watchdog
from thinkery.pipeline.ranks import joined

SAME = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "ray", "vllm"),  # which load, sample and send
    *("math-verify", "sympy", "py3langid"),  # which judge
)
"""Packages whose versions all machines must share, beside Python's and Thinkery's own."""
WHERE_INSTALLED = ("vllm",)
"""Those of them that a machine need not have."""
SOURCES = (".py", ".h", ".toml")
"""Endings of the files that Thinkery is made of."""
NAMED = 3
"""Files that differ and are named."""
ANSWER_S = 120.0
"""How long a machine or a rank may take to load Thinkery and answer, unless it is said."""
ADDED = 2**24
"""Numbers that ranks add up: 64 MiB, about a layer's gradients."""


@dataclass(frozen=True, slots=True)
class Place:
    """What one machine or rank says of itself."""

    name: str
    versions: dict[str, str]
    """Of packages, and of Thinkery's files the beginnings of their hashes."""
    has: str

    def differs(self, other: Place) -> str:
        """In which versions and files it differs from another, as text."""
        names = sorted(self.versions.keys() | other.versions.keys())
        pairs = {name: (self.versions.get(name, "none"), other.versions.get(name, "none")) for name in names}
        other_than = {
            name: f"{name} {mine} instead of {theirs}"
            for name, (mine, theirs) in pairs.items()
            if mine != theirs and not (name in WHERE_INSTALLED and "none" in (mine, theirs))
        }
        files = [name for name in other_than if name.endswith(SOURCES)]
        found = [text for name, text in other_than.items() if name not in files]
        if files:
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            found.append(f"other contents of {', '.join(files[:NAMED])}{more}")
        return ", ".join(found)


def look(name: str = "") -> Place:
    """What this machine has."""
    versions = {"python": platform.python_version(), "thinkery": thinkery.__version__}
    for package in SAME:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    has = f"{os.cpu_count()} processors, {len(gpus)} GPUs{f' ({gpus[0]})' if gpus else ''}"
    return Place(name or socket.gethostname(), versions | sources(), has)


def sources() -> dict[str, str]:
    """The beginning of the hash of every file that the installed Thinkery is made of."""
    package = Path(thinkery.__file__).parent
    files = sorted(path for path in package.rglob("*") if path.suffix in SOURCES)
    return {
        path.relative_to(package.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in files
    }


def of_ray(address: str, patience_s: float = ANSWER_S) -> tuple[list[Place], dict[str, str]]:
    """What this machine and those of a Ray cluster have, and by address why the others do not say; EnvironmentLacks
    where there is no cluster."""
    from thinkery.engine.ray import connected, on_every_machine

    with connected(address):
        places, silent = on_every_machine(look, patience_s)
        return [look(), *places], silent


def of_ranks(environ: Mapping[str, str], patience_s: float = ANSWER_S) -> tuple[list[Place], float]:
    """Every rank that torchrun has started, and the bytes a second at which they add numbers up; on one, nothing.

    RankLost where some have not come in time.
    """
    with joined(environ, Watchdog(start_s=patience_s)) as ranks:
        places = ranks.gather(look(f"rank {ranks.rank} on {socket.gethostname()}"))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        numbers = torch.ones(ADDED, device=device)
        ranks.add([numbers])
        began = time.perf_counter()
        ranks.add([numbers])
        rate = 4 * ADDED / (time.perf_counter() - began)
        assert int(numbers[0]) == ranks.count**2
    return places, rate
