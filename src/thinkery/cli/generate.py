"""`thinkery generate MODEL "prompt"`: complete one prompt, several times if asked."""

from __future__ import annotations

import argparse
import sys

from thinkery.cli import models, terminal
from thinkery.core import Completion, Message, seed_of
from thinkery.errors import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the prompt and how to sample."""
    parser.add_argument("model", metavar="MODEL", help=models.NAMES)
    parser.add_argument("prompt", metavar="PROMPT", help='the question; "-" reads it from stdin')
    parser.add_argument("-n", "--samples", type=int, default=1, help="how many completions (default 1)")
    parser.add_argument("--raw", action="store_true", help="continue the text as it is, without a chat template")
    parser.add_argument("--json", action="store_true", help="machine output on stdout")
    models.arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Print every completion, its thought dimmed."""
    from thinkery.engine import Request, generate

    if args.samples < 1:
        raise UsageError("at least one completion", where="--samples", found=str(args.samples))
    text = sys.stdin.read() if args.prompt == "-" else args.prompt
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):  # what Python makes of bytes that are none
        raise UsageError("not UTF-8 text", where="PROMPT", hint="convert it, or give it on stdin as UTF-8")
    seeds = tuple(seed_of(args.seed, 0, text, i) for i in range(args.samples))
    with models.open_model(args.model, args.template) as engine:
        prompt = tuple(engine.tokenizer.encode(text)) if args.raw else None
        request = Request(seeds, models.sampling(args), (Message("user", text),), prompt)
        ((_, events),) = generate(engine, [request])
    completions = [event.completion for event in events if event.completion]
    if args.json:
        terminal.emit([as_data(completion) for completion in completions])
    else:
        print("\n\n".join(as_text(completion) for completion in completions))


def as_data(completion: Completion) -> dict[str, object]:
    """A completion for machines."""
    return {
        "text": completion.text,
        "thought": completion.thought,
        "answer": completion.answer,
        "finish": completion.finish,
        "tokens": len(completion.tokens),
    }


def as_text(completion: Completion) -> str:
    """A completion for people: the thought dimmed, a note where it was cut."""
    note = "" if completion.finish == "stop" else terminal.styled(f" [{completion.finish}]", terminal.DIM)
    if completion.thought is None:
        return terminal.harmless(completion.text) + note
    thought = terminal.styled(terminal.harmless(completion.thought), terminal.DIM)
    return f"{thought}\n{terminal.harmless(completion.answer)}{note}"
