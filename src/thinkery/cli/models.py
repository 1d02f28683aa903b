"""Runs and models named on the command line; what chat, generate and eval share."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.core import Sampling
from thinkery.errors import InputError, UsageError
from thinkery.pipeline.files import read_json

if TYPE_CHECKING:
    from thinkery.engine import Engine, NativeEngine
    from thinkery.model.adapter import Adapted
    from thinkery.model.tokenizer import Tokenizer
    from thinkery.model.transformer import Transformer

RUNS = Path("runs")
"""Where runs are, unless `--dir` says otherwise."""
LONGEST = 512
"""Tokens of a completion where nothing else is said."""

NAMES = "RUN:STAGE (runs/demo:zero), RUN (its last model), a model folder, a .gguf file, tiny, smollm2 or a hub id"


def arguments(parser: argparse.ArgumentParser) -> None:
    """How to sample, with the defaults of R1's evaluation (v2 §D.1)."""
    parser.add_argument("--temperature", type=float, default=0.6, help="0 is greedy (default 0.6)")
    parser.add_argument("--top-p", type=float, default=0.95, help="share of probability kept (default 0.95)")
    parser.add_argument("--max-tokens", type=int, default=LONGEST, help=f"longest completion (default {LONGEST})")
    parser.add_argument("--seed", type=int, default=0, help="decides every sample (default 0)")
    parser.add_argument(
        "--template", default="", help="a chat template: r1-zero, chat, or a Jinja file (default: the model's)"
    )


def sampling(args: argparse.Namespace) -> Sampling:
    """The sampling that parsed arguments ask for; UsageError where none does."""
    most = LONGEST if args.max_tokens is None else args.max_tokens
    if most < 1:
        raise UsageError("at least one token", where="--max-tokens", found=str(most))
    try:
        return Sampling(temperature=args.temperature, top_p=args.top_p, max_tokens=most)
    except ValueError as error:
        raise UsageError(str(error), where="--temperature, --top-p") from error


@contextmanager
def open_model(name: str, template: str = "") -> Iterator[NativeEngine]:
    """An engine for a named model, with another template where one is given."""
    from thinkery.engine import EngineConfig, open_engine
    from thinkery.model.hf import accelerator

    with model_folder(name) as folder:
        network, tokenizer = load(folder, template)
        with open_engine(network.to(accelerator()), tokenizer, EngineConfig()) as engine:
            yield engine


@contextmanager
def open_model_on(address: str, name: str, template: str = "") -> Iterator[Engine]:
    """The same model, sampled on a Ray cluster by as many engines as there is room for."""
    from thinkery.engine import EngineConfig
    from thinkery.engine.pool import open_engines

    with model_folder(name) as folder, open_engines(*load(folder, template), EngineConfig(ray=address)) as engine:
        yield engine


def load(folder: Path, template: str = "", dtype: str = "float32") -> tuple[Transformer | Adapted, Tokenizer]:
    """The network and the tokenizer of a folder, with another template where one is given."""
    import torch

    from thinkery.model.hf import load_model

    network, tokenizer = load_model(folder, getattr(torch, dtype))
    return network, tokenizer.with_template(read_template(template)) if template else tokenizer


@contextmanager
def model_folder(name: str) -> Iterator[Path]:
    """The Hugging Face folder of a named model; a GGUF file is converted into one for as long as the block lasts."""
    found = find_model(name)
    if found.suffix != ".gguf":
        yield found
        return
    from thinkery.model.gguf import convert

    with tempfile.TemporaryDirectory(prefix="thinkery-") as folder:
        convert(found, folder)
        yield Path(folder)


def find_model(name: str) -> Path:
    """Where a model is: a stage of a run, the last model of a run, or what `model.locate` knows."""
    run, _, stage = name.rpartition(":")
    if run and is_run(Path(run)):
        return model_of_run(Path(run), stage)
    if is_run(Path(name)):
        return model_of_run(Path(name))
    from thinkery.model.locate import locate

    return locate(name)


def is_run(directory: Path) -> bool:
    """Whether a directory is a run's."""
    return (directory / "run.json").is_file()


def read_template(name: str) -> str:
    """The Jinja of a shipped template or of a file."""
    from thinkery.stages.common import TEMPLATES

    if name in TEMPLATES:
        return TEMPLATES[name]
    if not Path(name).is_file():
        raise InputError("no such chat template", found=name, hint=f"a Jinja file, or one of {', '.join(TEMPLATES)}")
    try:
        return Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", where=name, found=str(error), hint="convert it to UTF-8") from error


def model_of_run(directory: Path, stage: str = "") -> Path:
    """The folder of a stage's model; without a stage, of the last one that speaks, in the order of the graph."""
    from thinkery.pipeline.step import suggestion

    if not stage:
        return list(stages_of_run(directory).values())[-1]
    made = models_of_run(directory)
    if stage not in made:
        raise InputError(f"no model of stage {stage!r} is done", where=str(directory), hint=suggestion(stage, made))
    return made[stage]


def stages_of_run(directory: Path) -> dict[str, Path]:
    """The folder of every language model that is done, by its stage, in the order of the graph."""
    return {stage: folder for stage, folder in models_of_run(directory).items() if not is_reward_model(folder)}


def is_reward_model(folder: Path) -> bool:
    """Whether a model gives a score in place of a next token."""
    architectures = read_json(folder / "config.json").get("architectures") or ()
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def models_of_run(directory: Path) -> dict[str, Path]:
    """The folder of every model that is done, reward models too, by its stage, in the order of the graph."""
    from thinkery.pipeline.artifact import Model
    from thinkery.pipeline.read import open_run

    made = {name: one.folder for name, one in open_run(directory).artifacts.items() if isinstance(one, Model)}
    if not made:
        raise InputError("no model is done yet", where=str(directory), hint=f"thinkery show {directory}")
    return made


def latest_run() -> Path:
    """The run under `runs/` that was worked on last."""
    runs = sorted(RUNS.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise InputError("no run here", where=str(RUNS), hint="thinkery run tiny, or name a run directory")
    return runs[-1].parent
