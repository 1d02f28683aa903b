"""Are two mathematical answers equal? math-verify decides, in processes that can be killed.

Symbolic comparison may hang on a pair such as 9^(9^9) and 2^(3^4); signal-based timeouts fail silently in
threads. So each pair is compared in a worker process under a wall-clock limit: a pair that outlasts it costs that
limit and is *ungraded*, never 0. Most pairs need no worker: plain numbers are compared here, exactly, and plain
formulas that are written alike or whose values are far apart are decided here too. What would be misread is put in
another writing first, or not read at all (`notation`). A pair that was decided lately, as when many attempts at a
question agree, is not compared again.

    pool = MathPool(workers=2)
    pool.grade([("1/2", "0.5"), ("5", "6")])    # [Score(1.0, …), Score(0.0, …)]

POSIX only. A pool may be used from any number of threads.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from multiprocessing.connection import wait
from typing import Any

from thinkery.core import Score
from thinkery.errors import EnvironmentLacks
from thinkery.rewards.formula import far_apart, is_plain, same_text
from thinkery.rewards.notation import UNCLEAR, UNREADABLE, usual

START_S = 60.0  # a worker imports sympy first
PATIENCE = 30  # how often a pair whose worker was killed is given to another
REMEMBERED = 10_000  # pairs
_NUMBER = re.compile(r"\$?\s*([-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?)\s*\$?\.?")

Question = tuple[str, str | None]
"""(gold, answer): are they equal? (gold, None): can gold be read?"""


class MathPool:
    """Worker processes that compare answers; started when first needed, ended by `close` or with the interpreter.

    `limit_s` is the wall-clock time one pair may take; a worker is renewed after `recycle` pairs, because
    sympy's caches only grow.
    """

    def __init__(self, workers: int = 0, limit_s: float = 5.0, recycle: int = 2000) -> None:
        self.limit_s, self.recycle = limit_s, recycle
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self._workers):
            self._idle.put(None)  # a place for a worker not yet started
        self._decided: dict[Question, dict[str, Any]] = {}

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """A score per (gold, answer): 1 equal, 0 different, None where it could not be decided."""
        usually = [(usual(gold) or gold, usual(answer)) for gold, answer in pairs]
        scores = [_compare_here(gold, answer) for gold, answer in usually]
        replies = self._ask_all([pair for pair, score in zip(usually, scores, strict=True) if score is None])
        judged = zip(pairs, usually, scores, strict=True)
        return [score or _score(*pair, replies[written]) for pair, written, score in judged]

    def gradable(self, golds: Sequence[str]) -> list[bool]:
        """For each gold answer whether it can be read as mathematics; False also where reading it fails."""
        golds = [usual(gold) or gold for gold in golds]
        replies = self._ask_all([(gold, None) for gold in golds if _number(gold) is None and not is_plain(gold)])
        return [(gold, None) not in replies or replies[gold, None].get("readable", False) for gold in golds]

    def close(self) -> None:
        """End all idle workers; the pool starts new ones if it is used again."""
        places = [self._idle.get() for _ in range(self._workers)]
        for worker in places:
            if worker:
                worker.kill()
            self._idle.put(None)

    def _ask_all(self, questions: Sequence[Question]) -> dict[Question, dict[str, Any]]:
        """A reply to each question; those decided lately are not asked again."""
        known = {one: reply for one in questions if (reply := self._decided.get(one))}
        new = [one for one in dict.fromkeys(questions) if one not in known]
        if len(new) < 2:
            fresh = {one: self._ask(one) for one in new}
        else:
            with ThreadPoolExecutor(min(self._workers, len(new))) as threads:
                fresh = dict(zip(new, threads.map(self._ask, new), strict=True))
        if len(self._decided) + len(fresh) > REMEMBERED:
            self._decided.clear()
        self._decided.update({one: reply for one, reply in fresh.items() if "error" not in reply})
        return known | fresh

    def _ask(self, question: Question) -> dict[str, Any]:
        """A worker's reply; where one was killed from outside, another's."""
        for _ in range(PATIENCE):
            try:
                return self._ask_one(question)
            except _Killed:
                continue
        return {"error": f"the comparing process was killed {PATIENCE} times"}

    def _ask_one(self, question: Question) -> dict[str, Any]:
        """The reply of the next free worker; one that was killed gives its place up."""
        worker = self._idle.get()
        keep: _Worker | None = None
        try:
            worker = worker or _Worker(self.limit_s)
            reply = worker.ask(question, self.limit_s)
            if worker.asked >= self.recycle:
                worker.renew()
            keep = worker
            return reply
        finally:
            if worker and not keep:
                worker.kill()
            self._idle.put(keep)


class _Killed(Exception):
    """Somebody killed the process: it may have been another's pair, or the system short of memory."""


class _Worker:
    """One `math_worker` process, in a session of its own so that Ctrl-C does not reach it.

    What answers is a child of it, which it replaces when asked to by SIGTERM.
    """

    def __init__(self, limit_s: float) -> None:
        self.asked = 0
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "thinkery.rewards.math_worker", str(limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._read_until_ready()
        except _Killed:
            complaint = self.kill()
            if not complaint:
                raise
            raise EnvironmentLacks(
                "the process that compares mathematical answers does not start",
                found=complaint.strip()[-500:],
                hint="pip install 'math-verify[antlr4-13-2]'",
            ) from None

    def ask(self, question: Question, limit_s: float) -> dict[str, Any]:
        """The reply to a question, {"error": …} when none came in time; raises _Killed if somebody ended the worker."""
        self.asked += 1
        gold, answer = question
        self._write({"id": self.asked, "gold": gold} | ({} if answer is None else {"answer": answer}))
        deadline = time.monotonic() + limit_s
        while (reply := self._read(deadline)) is not None:
            if reply.get("id") == self.asked:
                return reply
            if "ready" in reply:
                return _after(reply["after"])
        self.renew()
        return {"error": f"took longer than {limit_s:g} s"}

    def renew(self) -> None:
        """Have a fresh child answer from now on."""
        if self._process.poll() is not None:
            raise _Killed  # the child outlived its parent, and has no successor
        self.asked = 0
        self._process.send_signal(signal.SIGTERM)
        self._read_until_ready()

    def kill(self) -> str:
        """End the process and its child at once and reap it; returns what it wrote to stderr."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.communicate()[1].decode(errors="replace")

    def _write(self, request: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _Killed from None

    def _read_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while "ready" not in (reply := self._read(deadline) or {"ready": False}):
            pass  # a reply that came too late
        if not reply["ready"]:
            raise _Killed

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """The next line from the process, None when none came in time; raises _Killed when it is gone."""
        assert self._process.stdout
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            if not wait([pipe], max(0.0, deadline - time.monotonic())):
                return None
            if not (more := os.read(pipe, 1 << 16)):
                raise _Killed
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)


@functools.cache
def shared_pool() -> MathPool:
    """The pool everyone uses who brings none; closed when the interpreter ends."""
    pool = MathPool()
    atexit.register(pool.close)
    return pool


def gradable(gold: str) -> bool:
    """Whether a gold answer can be read as mathematics, by the shared pool."""
    return shared_pool().gradable([gold])[0]


def _compare_here(gold: str, answer: str | None) -> Score | None:
    """The score of two plain numbers, or of formulas that are written alike or far apart; None for any other pair."""
    wanted, given = _number(gold), None if answer is None else _number(answer)
    if wanted is not None and given is not None:
        return Score(1.0, f"{given} = {wanted}") if wanted == given else Score(0.0, f"{given} is not {wanted}")
    if answer is None:
        return None  # whether gold can be read is for a worker to say
    if is_plain(gold) and same_text(gold, answer):
        return _score(gold, answer, {"equal": True})
    return _score(gold, answer, {"equal": False}) if far_apart(gold, answer) else None


def _number(text: str) -> Decimal | None:
    found = _NUMBER.fullmatch(text.strip())
    return Decimal(found[1].replace(",", "")) if found else None


def _after(status: int | None) -> dict[str, Any]:
    """What is said of a question that a child did not survive; raises _Killed where somebody killed it."""
    if status == -signal.SIGKILL:
        raise _Killed
    return {"error": "the comparing process died"}


def _score(gold: str, answer: str, reply: dict[str, Any]) -> Score:
    pair = f"answer {_short(answer)}, gold {_short(gold)}"
    if "readable" in reply:  # so the answer could not be
        reply = {"equal": False, "why": UNCLEAR} if reply["readable"] else {"error": UNREADABLE}
    if "error" in reply:
        return Score(None, f"{reply['error']}: {pair}")
    if reply["equal"]:
        return Score(1.0, f"equal: {pair}")
    return Score(0.0, f"{reply.get('why', 'different')}: {pair}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:199] + "…")
