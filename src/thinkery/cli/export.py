"""`thinkery export MODEL OUT`: a model for other programs, as a Hugging Face folder or a .gguf file for llama.cpp."""

from __future__ import annotations

import argparse
from pathlib import Path

from thinkery.cli import models
from thinkery.errors import InputError, UsageError
from thinkery.pipeline.files import size_text


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
    print(f"wrote {out}: {args.type}, {size_text(size)}")


def write_file(source: Path, out: Path, type: str, template: str) -> None:
    """A .gguf file; half a file never stands under its name."""
    from thinkery.model.gguf import export
    from thinkery.model.hf import load_model

    network, tokenizer = load_model(source)
    if template:
        tokenizer = tokenizer.with_template(models.read_template(template))
    partial = out.with_name(f"{out.name}.partial")
    try:
        export(partial, network, tokenizer, type=type, name=out.stem)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def write_folder(source: Path, out: Path, type: str, template: str) -> None:
    """A Hugging Face folder with the model card that was there."""
    import torch

    from thinkery.model.hf import load_model, save_model

    dtypes = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    if type not in dtypes:
        raise UsageError(f"a folder holds {', '.join(dtypes)}", found=f"--type {type}", hint="or name a file OUT.gguf")
    network, tokenizer = load_model(source, dtypes[type])
    if template:
        tokenizer = tokenizer.with_template(models.read_template(template))
    partial = out.with_name(f"{out.name}.partial")
    save_model(partial, network, tokenizer, card=body(source / "README.md"))
    partial.replace(out)


def body(card: Path) -> str:
    """A model card without the lines for the hub at its top; "" where there is none."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return text.split("\n---\n", 1)[1].lstrip() if text.startswith("---\n") and "\n---\n" in text else text
