"""`thinkery chat`: talk to a model; its thought streams dimmed, `/think` hides it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from thinkery.chat import CLOSE, OPEN
from thinkery.cli import models, terminal
from thinkery.core import Completion, Message, seed_of

if TYPE_CHECKING:
    from thinkery.engine import NativeEngine, Request

HELP = "/think shows or hides the thought, /new starts over, /quit leaves; Ctrl-C stops an answer"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model and how to sample."""
    parser.add_argument(
        "model", nargs="?", default="", metavar="MODEL", help=f"{models.NAMES}; default: the latest run"
    )
    parser.add_argument("--system", default="", help="a system message")
    models.arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Read lines, answer each, remember the conversation until /new."""
    name = args.model or str(models.latest_run())
    start = [Message("system", args.system)] if args.system else []
    with models.open_model(name, args.template) as engine:
        terminal.remark(f"talking to {name}; {HELP}")
        messages, show_thought = list(start), True
        for number, line in enumerate(questions()):
            if line == "/quit":
                return
            if line == "/think":
                show_thought = not show_thought
                terminal.remark(f"the thought is {'shown' if show_thought else 'hidden'}")
            elif line == "/new":
                messages = list(start)
            elif line.startswith("/"):
                terminal.remark(HELP)
            else:
                messages.append(Message("user", line))
                said = answer(engine, messages, args, number, show_thought)
                messages.append(Message("assistant", said.answer, said.thought))


def questions() -> Iterator[str]:
    """Lines that were typed, until the end of the input; empty ones are passed over."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line:
            yield line


def answer(
    engine: NativeEngine, messages: list[Message], args: argparse.Namespace, number: int, show_thought: bool
) -> Completion:
    """Stream one answer; Ctrl-C ends it and keeps what was said."""
    from thinkery.engine import Request

    _, opened = engine.tokenizer.prompt(messages)
    printer = Printer(opened=opened, show_thought=show_thought)
    seed = seed_of(args.seed, number, messages[-1].content, 0)
    said = stream(engine, Request((seed,), models.sampling(args), tuple(messages)), printer)
    printer.close("" if said.finish == "stop" else f" [{said.finish}]")
    return said


def stream(engine: NativeEngine, request: Request, printer: Printer) -> Completion:
    """Print tokens as they come; returns the completion."""
    id = engine.submit(request)
    text = engine.tokenizer.stream()
    while True:
        try:
            events = engine.step()
        except KeyboardInterrupt:
            engine.cancel(id)
            continue
        for event in events:
            ended = event.completion is not None
            for token in event.tokens:
                printer.write("" if ended and token in engine.tokenizer.eos_ids else text.push(token))
            if event.completion is not None:
                printer.write(text.close())
                return event.completion


class Printer:
    """Text as it comes: dimmed or hidden inside the thought, plain after it; the tags themselves are not shown."""

    def __init__(self, *, opened: bool, show_thought: bool) -> None:
        self.place = "thought" if opened else "start"
        """start, thought, gap (white space after it) or answer."""
        self.show_thought = show_thought
        self.held = ""
        """Text that may yet turn out to be a tag."""
        if opened:
            self._begin_thought()

    def write(self, text: str) -> None:
        """Show what is certain, hold back what may be the beginning of a tag."""
        self.held += text
        if self.place == "start":
            self._look_for_thought()
        if self.place == "thought":
            self._print_thought()
        if self.place == "gap":
            self.held = self.held.lstrip()
            self.place = "answer" if self.held else "gap"
        if self.place == "answer":
            self._print(self.held)
            self.held = ""

    def close(self, note: str) -> None:
        """Show what was held back, and end the line."""
        self._print(self.held if self.place != "thought" or self.show_thought else "")
        print(terminal.styled(note, terminal.DIM), flush=True)

    def _look_for_thought(self) -> None:
        begun = self.held.lstrip()
        if begun.startswith(OPEN):
            self.place, self.held = "thought", begun.removeprefix(OPEN)
            self._begin_thought()
        elif not OPEN.startswith(begun):
            self.place = "answer"

    def _begin_thought(self) -> None:
        if not self.show_thought:
            self._print(terminal.styled("(thinking)", terminal.DIM) + "\n")

    def _print_thought(self) -> None:
        thought, closed, rest = self.held.partition(CLOSE)
        if closed:
            self.place, self.held = "gap", rest
        else:
            kept = next((n for n in range(len(CLOSE) - 1, 0, -1) if thought.endswith(CLOSE[:n])), 0)
            thought, self.held = thought[: len(thought) - kept], thought[len(thought) - kept :]
        if self.show_thought:
            self._print(terminal.styled(thought, terminal.DIM) + ("\n\n" if closed else ""))

    def _print(self, text: str) -> None:
        print(text, end="", flush=True)
