"""`thinkery chat` in a real terminal: a process on the other side of a pty."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 120


class Terminal:
    """The user's side of a pty."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.shown = descriptor, ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def until(self, pattern: str, *, pressing: str = "") -> str:
        """Read until the pattern is shown; returns what came up to its end, which is then forgotten.

        `pressing` is a key that is pressed once a second meanwhile. CPython loses a Ctrl-C that comes between the
        prompt of readline and its `select`, until another key is pressed.
        """
        deadline = time.monotonic() + PATIENCE_S
        self.type(pressing)
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.shown!r}"
            if select.select([self.descriptor], [], [], 1)[0]:
                self.shown += os.read(self.descriptor, 65536).decode("utf-8", "replace")
            else:
                self.type(pressing)
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before


def at_a_terminal() -> None:
    """What a shell does for its command: without it Ctrl-C reaches nobody, or is ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def chatting(*words: object, cwd: Path) -> Iterator[tuple[Terminal, subprocess.Popen]]:
    """`thinkery chat` with its three streams on one terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "thinkery.cli", "chat", *map(str, words)]
    environment = {**os.environ, "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=environment,
        start_new_session=True,
        preexec_fn=at_a_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_conversation_at_a_terminal(tiny_qwen: Path, tmp_path: Path) -> None:
    with chatting(tiny_qwen, "--max-tokens", 6, "--temperature", 1, cwd=tmp_path) as (terminal, process):
        terminal.until("> $")
        terminal.type("hello\n")
        terminal.until(r"\d tokens, \d+\.\d s")
        terminal.type("/regenerate\n")
        terminal.until(r"\d tokens, \d+\.\d s")
        terminal.type("/save said.md\n")
        terminal.until("written to said.md")
        terminal.type("/save said.md\n")
        terminal.until("cannot be written")
        terminal.type("/model nothing/like/it\n")
        terminal.until("no such model|not found|nothing/like/it")
        terminal.type("/think\n")
        terminal.until("the thought is folded")
        terminal.type("/nonsense\n")
        terminal.until("/quit +leaves")
        terminal.type("/quit\n")
        assert process.wait(PATIENCE_S) == 0
    said = (tmp_path / "said.md").read_text()
    assert said.startswith("## user\n\nhello\n\n## assistant\n")
    assert said.count("hello") == 1


def test_ctrl_c_ends_an_answer_and_not_the_conversation(endless_qwen: Path, tmp_path: Path) -> None:
    with chatting(endless_qwen, "--max-tokens", 60_000, "--temperature", 0, cwd=tmp_path) as (terminal, process):
        terminal.until("> $")
        terminal.type("hello\n")
        terminal.until(r"hello\s+\S")
        terminal.type("\x03")
        terminal.until(r"cancelled · \d+ tokens")
        terminal.until("> $")
        terminal.type("half a que")
        terminal.until("half a que")
        terminal.until("/quit leaves", pressing="\x03")
        terminal.type("/quit\n")
        assert process.wait(PATIENCE_S) == 0


def test_a_model_cannot_steer_the_terminal(rude_qwen: Path, tmp_path: Path) -> None:
    with chatting(rude_qwen, "--max-tokens", 300, "--temperature", 1, cwd=tmp_path) as (terminal, _):
        shown = ""
        for line in ["user", *["/regenerate"] * 4]:
            terminal.until("> $")
            terminal.type(f"{line}\n")
            shown += terminal.until(r"\d+ tokens, \d+\.\d s")
    assert re.search("[\u2400-\u2421]", shown)
    ours = re.sub(r"\x1b\[[02]m", "", shown)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", ours)
    assert "\r" not in ours.replace("\r\n", "")


def test_the_models_of_a_run_answer_in_turn(thinkery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = thinkery("run", "tiny", "--until", "base", "--dir", tmp_path / "run")
    assert code == 0, err
    code, _, err = thinkery("serve", tmp_path / "run")
    assert (code, "no model of this run has a chat template" in err) == (4, True)
    typed = "/model\n1 + 1?\n/model base\n/regenerate\n/model bas\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    code, _, err = thinkery("chat", tmp_path / "run", "--max-tokens", 6, "--template", "chat")
    assert code == 0, err
    assert "its run has base" in err
    assert f"talking to {tmp_path}/run:base" in err


def test_a_question_that_is_too_long_ends_no_conversation(thinkery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"hello\n{'word ' * 1500}\n/regenerate\n"))
    code, _, err = thinkery("chat", "tiny", "--max-tokens", 6, "--template", "chat")
    assert code == 0, err
    assert err.count("leaves no room") == 1, "what is asked again is the question that was answered"
