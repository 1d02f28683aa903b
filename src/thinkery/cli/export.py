"""`thinkery export MODEL OUT`: a model for other programs, as a Hugging Face folder or a .gguf file for llama.cpp."""

from __future__ import annotations

import argparse
from pathlib import Path

from thinkery.cli import models
from thinkery.errors import InputError, UsageError
from thinkery.pipeline import files
from thinkery.pipeline.card import CARD

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""What a folder can hold."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, where it goes, and how weights are stored."""
    parser.add_argument("model", metavar="MODEL", help=models.NAMES)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet, or a file OUT.gguf")
    parser.add_argument(
        "--type", default="bf16", help="how matrices are stored: f32, f16, bf16 or, in .gguf files, q8_0 (default bf16)"
    )
    parser.add_argument(
        "--template", default="", help="a chat template: r1-zero, chat, or a Jinja file (default: the model's)"
    )


def main(args: argparse.Namespace) -> None:
    """Write the model and say what was written."""
    out: Path = args.out
    if out.exists():
        raise InputError("there is something already", where=str(out), hint="name a new folder or file, or remove it")
    with models.model_folder(args.model) as source:
        if out.suffix == ".gguf":
            write_file(source, out, args.type, args.template)
            size = out.stat().st_size
        else:
            write_folder(source, out, args.type, args.template)
            size = sum(path.stat().st_size for path in out.iterdir())
    print(f"wrote {out}: {args.type}, {files.size_text(size)}")


def write_file(source: Path, out: Path, type: str, template: str) -> None:
    """A .gguf file; half a file never stands under its name."""
    from thinkery.model.gguf import export

    network, tokenizer = models.load(source, template)
    partial = out.with_name(f"{out.name}.partial")
    try:
        with files.writing(out):
            export(partial, network, tokenizer, type=type, name=out.stem)
            files.sync_path(partial)
            partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def write_folder(source: Path, out: Path, type: str, template: str) -> None:
    """A Hugging Face folder with the model card that was there."""
    from thinkery.model.hf import save_model

    if type not in DTYPES:
        raise UsageError(f"a folder holds {', '.join(DTYPES)}", found=f"--type {type}", hint="or name a file OUT.gguf")
    network, tokenizer = models.load(source, template, DTYPES[type])
    card = (source / CARD).read_text(encoding="utf-8") if (source / CARD).is_file() else ""
    files.write_folder(out, lambda folder: save_model(folder, network, tokenizer, card=card))
