"""Where a recipe begins: weights from a name, a folder, a GGUF file or the hub, as an artifact with hashes."""

from __future__ import annotations

from thinkery.config import Config
from thinkery.model.gguf import convert
from thinkery.model.hf import check_model
from thinkery.model.locate import locate
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.run import Run


class Fetch(Config):
    """Which model to begin with."""

    model: str = "tiny"
    """`tiny` or `tiny-student` (inside the package), `smollm2`, a folder, a .gguf file, or a hub id."""


def fetch(run: Run, cfg: Fetch) -> Model:
    """Point to a Hugging Face folder, or convert a GGUF file into one; InputError for a model that cannot be used."""
    found = locate(cfg.model)
    if found.suffix == ".gguf":
        return run.save_model(lambda folder: convert(found, folder))
    check_model(found)
    return run.reference_model(found)
