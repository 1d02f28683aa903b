"""`thinkery chat`: talk to a model in the terminal; its thought streams dimmed, `/think` folds it.

The twin of the chat page (`serve/page/`): another stage of the run answers after `/model zero`, `/regenerate` asks the
last question again. What a model writes cannot steer the terminal.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from thinkery.chat import CLOSE, OPEN, overhang
from thinkery.cli import models, terminal
from thinkery.core import Completion, Message, seed_of
from thinkery.errors import InputError

if TYPE_CHECKING:
    from thinkery.engine import NativeEngine, Request

COMMANDS = {
    "/think": "shows or folds the thought",
    "/regenerate": "answers the last question again",
    "/model": "says which models the run has; /model NAME goes on with another",
    "/save": "writes the conversation as Markdown: /save FILE",
    "/new": "starts over",
    "/help": "shows this list",
    "/quit": "leaves",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model and how to sample."""
    parser.add_argument(
        "model", nargs="?", default="", metavar="MODEL", help=f"{models.NAMES}; default: the latest run"
    )
    parser.add_argument("--system", default="", help="a system message")
    models.arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Read lines, answer each, remember the conversation until /new."""
    if sys.stdin.isatty():
        with suppress(ModuleNotFoundError):  # not on every platform; lines are only more pleasant to edit with it
            importlib.import_module("readline")
    with Chat(args) as chat:
        chat.open(args.model or str(models.latest_run()))
        for line in lines():
            if line == "/quit":
                return
            chat.obey(line)


def lines() -> Iterator[str]:
    """Lines that were typed, until the end of the input; empty ones are passed over."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            terminal.remark("\n/quit leaves")
            continue
        if line:
            yield line


class Chat:
    """A conversation, and the engine of the model that goes on with it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.opened = args, ExitStack()
        self.start = [Message("system", args.system)] if args.system else []
        self.messages = list(self.start)
        self.asked, self.show_thought = 0, True

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *problem: object) -> None:
        self.opened.close()

    def open(self, name: str) -> None:
        """Let this model answer from now on; the one before stays if it cannot be opened."""
        with ExitStack() as opening:
            engine = opening.enter_context(models.open_model(name, self.args.template))
            engine.tokenizer.prompt([*self.messages, Message("user", "?")])  # a model without a template says so now
            self.opened.close()
            self.opened = opening.pop_all()
        self.name, self.engine = name, engine
        terminal.remark(f"talking to {name}; /help lists the commands; Ctrl-C stops an answer")

    def ask(self, question: str, before: Sequence[Message] | None = None) -> None:
        """Answer a question, after what was said `before`, or the whole conversation; Ctrl-C ends the answer and keeps
        what was said."""
        from thinkery.engine import Request

        messages = [*(self.messages if before is None else before), Message("user", question)]
        _, opened = self.engine.tokenizer.prompt(messages)
        printer = Printer(opened=opened, show_thought=self.show_thought)
        seed = seed_of(self.args.seed, self.asked, question, 0)
        said = stream(self.engine, Request((seed,), models.sampling(self.args), tuple(messages)), printer)
        self.messages = [*messages, Message("assistant", said.answer, said.thought)]
        self.asked += 1
        terminal.remark(facts(said, printer))

    def obey(self, line: str) -> None:
        """Carry out a command, or answer a question; what cannot be done is said, and the conversation goes on."""
        command, _, rest = line.partition(" ")
        try:
            self._obey(command, rest.strip()) if line.startswith("/") else self.ask(line)
        except InputError as problem:
            terminal.remark(str(problem))

    def _obey(self, command: str, rest: str) -> None:
        if command == "/think":
            self.show_thought = not self.show_thought
            terminal.remark(f"the thought is {'shown' if self.show_thought else 'folded'}")
        elif command == "/regenerate":
            self._regenerate()
        elif command == "/model" and rest:
            self.open(f"{self._run()}:{rest}" if rest in self._stages() else rest)
        elif command == "/model":
            terminal.remark(f"{self.name}; its run has {', '.join(self._stages()) or 'no other models'}")
        elif command == "/save":
            save(self.messages, rest)
        elif command == "/new":
            self.messages = list(self.start)
            terminal.remark("a new conversation")
        else:
            terminal.remark(terminal.table(COMMANDS.items()))

    def _regenerate(self) -> None:
        if len(self.messages) == len(self.start):
            raise InputError("nothing was asked yet")
        *before, question, _ = self.messages
        self.ask(question.content, before)

    def _run(self) -> str:
        """The directory of the run that the model came from; of another model, its name."""
        run, _, _ = self.name.rpartition(":")
        return run if run and models.is_run(Path(run)) else self.name

    def _stages(self) -> list[str]:
        directory = Path(self._run())
        return list(models.stages_of_run(directory)) if models.is_run(directory) else []


def stream(engine: NativeEngine, request: Request, printer: Printer) -> Completion:
    """Print tokens as they come, until the end or Ctrl-C; returns the completion."""
    id = engine.submit(request)
    text = engine.tokenizer.stream()
    with interrupts() as interrupted:
        while True:
            if interrupted.is_set():
                engine.cancel(id)
            for event in engine.step():
                ended = event.completion is not None
                for token in event.tokens:
                    printer.write("" if ended and token in engine.tokenizer.eos_ids else text.push(token))
                if event.completion is not None:
                    printer.write(text.close())
                    printer.close()
                    return event.completion


@contextmanager
def interrupts() -> Iterator[Event]:
    """Ctrl-C sets this event instead of raising in the middle of a line."""
    interrupted = Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def facts(said: Completion, printer: Printer) -> str:
    """How an answer ended, what it took, and how much of that was thought."""
    thought = f"thought {printer.thought_tokens} tokens, {printer.thought_s:.1f} s" if said.thought is not None else ""
    whole = f"{len(said.tokens)} tokens, {printer.elapsed_s:.1f} s"
    ending = "" if said.finish == "stop" else said.finish
    return " · ".join(filter(None, [ending, thought, whole]))


def save(messages: Sequence[Message], name: str) -> None:
    """Write a conversation as Markdown, thoughts quoted; a file that is there already is not touched."""
    if not name:
        raise InputError("a file is needed", hint="/save chat.md")
    parts = []
    for message in messages:
        parts.append(f"## {message.role}")
        if message.thought:
            parts.append("\n".join(f"> {line}" for line in message.thought.split("\n")))
        parts.append(message.content)
    try:
        with Path(name).open("x", encoding="utf-8") as file:
            file.write("\n\n".join(filter(None, parts)) + "\n")
    except OSError as problem:
        raise InputError("the conversation cannot be written", where=name, found=problem.strerror or "") from problem
    terminal.remark(f"written to {name}")


class Printer:
    """Text as it comes: dimmed or hidden inside the thought, plain after it; the tags themselves are not shown."""

    def __init__(self, *, opened: bool, show_thought: bool) -> None:
        self.place = "thought" if opened else "start"
        """start, thought, gap (white space after it) or answer."""
        self.show_thought = show_thought
        self.held = ""
        """Text that may yet turn out to be a tag."""
        self.begun = time.monotonic()
        self.thought_tokens, self.thought_s = 0, 0.0
        if opened:
            self._begin_thought()

    def write(self, text: str) -> None:
        """Show what is certain of one more token's text, hold back what may be the beginning of a tag."""
        self.held += text
        if self.place in ("start", "thought"):
            self.thought_tokens, self.thought_s = self.thought_tokens + 1, self.elapsed_s
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

    def close(self) -> None:
        """Show what was held back, and end the line."""
        self._print((self.held if self.place != "thought" or self.show_thought else "") + "\n")

    @property
    def elapsed_s(self) -> float:
        """Since the question was asked."""
        return time.monotonic() - self.begun

    def _look_for_thought(self) -> None:
        begun = self.held.lstrip()
        if begun.startswith(OPEN):
            self.place, self.held = "thought", begun.removeprefix(OPEN)
            self._begin_thought()
        elif not OPEN.startswith(begun):
            self.place = "answer"

    def _begin_thought(self) -> None:
        if not self.show_thought:
            self._dim("(thinking)\n")

    def _print_thought(self) -> None:
        thought, closed, rest = self.held.partition(CLOSE)
        if closed:
            self.place, self.held = "gap", rest
        else:
            kept = overhang(thought, (CLOSE,))
            thought, self.held = thought[: len(thought) - kept], thought[len(thought) - kept :]
        if self.show_thought:
            self._dim(thought)
            self._print("\n\n" if closed else "")

    def _print(self, text: str) -> None:
        print(terminal.harmless(text), end="", flush=True)

    def _dim(self, text: str) -> None:
        if text:
            print(terminal.styled(terminal.harmless(text), terminal.DIM), end="", flush=True)
