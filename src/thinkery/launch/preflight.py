"""Before a run on several machines: do they answer, and do they have the same versions? `thinkery doctor --cluster`.

Of a Ray cluster, every machine is asked. Of ranks, each says what it has, and they add up numbers together as training
does: `torchrun --nnodes 2 … -m thinkery.cli doctor --cluster`.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

import thinkery
from thinkery.pipeline.ranks import joined

SAME = ("torch", "transformers", "tokenizers", "numpy", "ray")
"""Packages whose versions all machines must share, beside Python's and Thinkery's own."""
ADDED = 2**24
"""Numbers that ranks add up: 64 MiB, about a layer's gradients."""


@dataclass(frozen=True, slots=True)
class Place:
    """What one machine or rank says of itself."""

    name: str
    versions: dict[str, str]
    has: str

    def differs(self, other: Place) -> str:
        """In which versions it differs from another, as text."""
        names = sorted(self.versions.keys() | other.versions.keys())
        pairs = [(name, self.versions.get(name, "none"), other.versions.get(name, "none")) for name in names]
        return ", ".join(f"{name} {mine} instead of {theirs}" for name, mine, theirs in pairs if mine != theirs)


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
    return Place(name or socket.gethostname(), versions, has)


def of_ray(address: str) -> list[Place]:
    """Every machine of a Ray cluster, this one first; EnvironmentLacks where none answers."""
    from thinkery.engine.ray import connected, on_every_machine

    with connected(address):
        return [look(), *on_every_machine(look)]


def of_ranks(environ: Mapping[str, str]) -> tuple[list[Place], float]:
    """Every rank that torchrun has started, and the bytes a second at which they add numbers up; on one, nothing."""
    with joined(environ) as ranks:
        places = ranks.gather(look(f"rank {ranks.rank} on {socket.gethostname()}"))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        numbers = torch.ones(ADDED, device=device)
        ranks.add([numbers])
        began = time.perf_counter()
        ranks.add([numbers])
        rate = 4 * ADDED / (time.perf_counter() - began)
        assert int(numbers[0]) == ranks.count**2
    return places, rate
