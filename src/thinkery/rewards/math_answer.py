"""Are two mathematical answers equal? math-verify decides, in processes that can be killed.

Symbolic comparison may hang on a pair such as 9^(9^9) and 2^(3^4); signal-based timeouts fail silently in
threads. So each pair is compared in a worker process under a wall-clock limit: a pair that outlasts it costs that
limit and its worker, and is *ungraded*, never 0. Plain numbers are compared here, exactly, without a worker.

    pool = MathPool(workers=2)
    pool.grade([("1/2", "0.5"), ("5", "6")])    # [Score(1.0, …), Score(0.0, …)]

POSIX only. A pool may be used from any number of threads.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from multiprocessing.connection import wait
from typing import Any

from thinkery.core import Score
from thinkery.errors import EnvironmentLacks

_NUMBER = re.compile(r"\$?\s*([-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)\s*\$?\.?")
START_S = 60.0  # a worker imports sympy first
PATIENCE = 30  # how often a pair whose worker was killed is given to another


class MathPool:
    """Worker processes that compare answers; started when first needed, ended by `close` or with the interpreter.

    `limit_s` is the wall-clock time one pair may take; a worker is replaced after `recycle` pairs, because
    sympy's caches only grow.
    """

    def __init__(self, workers: int = 0, limit_s: float = 5.0, recycle: int = 2000) -> None:
        self.limit_s, self.recycle = limit_s, recycle
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self._workers):
            self._idle.put(None)  # a place for a worker not yet started

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """A score per (gold, answer): 1 equal, 0 different, None where it could not be decided."""
        scores = [_compare_numbers(gold, answer) for gold, answer in pairs]
        hard = [i for i, score in enumerate(scores) if score is None]
        requests = [{"gold": pairs[i][0], "answer": pairs[i][1]} for i in hard]
        graded = dict(zip(hard, map(_score, requests, self._ask_all(requests)), strict=True))
        return [graded[i] if score is None else score for i, score in enumerate(scores)]

    def gradable(self, golds: Sequence[str]) -> list[bool]:
        """For each gold answer whether it can be read as mathematics; False also where reading it fails."""
        hard = [gold for gold in dict.fromkeys(golds) if _number(gold) is None]
        readable = dict(zip(hard, self._ask_all([{"gold": gold} for gold in hard]), strict=True))
        return [gold not in readable or readable[gold].get("readable", False) for gold in golds]

    def close(self) -> None:
        """End all idle workers; the pool starts new ones if it is used again."""
        places = [self._idle.get() for _ in range(self._workers)]
        for worker in places:
            if worker:
                worker.kill()
            self._idle.put(None)

    def _ask_all(self, requests: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
        if len(requests) < 2:
            return [self._ask(request) for request in requests]
        with ThreadPoolExecutor(min(self._workers, len(requests))) as threads:
            return list(threads.map(self._ask, requests))

    def _ask(self, request: dict[str, str]) -> dict[str, Any]:
        """A worker's reply; where one was killed from outside, another's."""
        for _ in range(PATIENCE):
            try:
                return self._ask_one(request)
            except _Killed:
                continue
        return {"error": f"the comparing process was killed {PATIENCE} times"}

    def _ask_one(self, request: dict[str, str]) -> dict[str, Any]:
        """The reply of the next free worker; a worker that is late, dead or worn out gives its place up."""
        worker = self._idle.get()
        keep: _Worker | None = None
        try:
            worker = worker or _Worker(self.limit_s)
            reply = worker.ask(request, self.limit_s)
            if not reply.get("lost") and worker.asked < self.recycle:
                keep = worker
            return reply
        finally:
            if worker and not keep:
                worker.kill()
            self._idle.put(keep)


class _Killed(Exception):
    """Somebody killed the process: it may have been another's pair, or the system short of memory."""


class _Worker:
    """One `math_worker` process, in a session of its own so that Ctrl-C does not reach it."""

    def __init__(self, limit_s: float) -> None:
        self.asked = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "thinkery.rewards.math_worker", str(limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            ready = "ready" in self._reply(START_S)
        except _Killed:
            self._end()
            raise
        if not ready:
            complaint = self._end()
            raise EnvironmentLacks(
                "the process that compares mathematical answers does not start",
                found=complaint.strip()[-500:],
                hint="pip install 'math-verify[antlr4-13-2]'",
            )

    def ask(self, request: dict[str, str], limit_s: float) -> dict[str, Any]:
        """The reply to one request; {"lost": True, "error": …} when none came in time."""
        self.asked += 1
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._lost()
        return self._reply(limit_s)

    def kill(self) -> None:
        """End the process at once and reap it."""
        self._end()

    def _reply(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout
        if not wait([self._process.stdout.fileno()], limit_s):
            return {"lost": True, "error": f"took longer than {limit_s:g} s"}
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else self._lost()

    def _lost(self) -> dict[str, Any]:
        """The reply of a process that has closed its pipe; raises _Killed where it did not end by itself."""
        self._process.kill()
        if self._process.wait() == -signal.SIGKILL:
            raise _Killed
        return {"lost": True, "error": "the comparing process died"}

    def _end(self) -> str:
        """Kill, reap, close the pipes; returns what the process wrote to stderr."""
        self._process.kill()
        return self._process.communicate()[1]


@functools.cache
def shared_pool() -> MathPool:
    """The pool everyone uses who brings none; closed when the interpreter ends."""
    pool = MathPool()
    atexit.register(pool.close)
    return pool


def gradable(gold: str) -> bool:
    """Whether a gold answer can be read as mathematics, by the shared pool."""
    return shared_pool().gradable([gold])[0]


def _compare_numbers(gold: str, answer: str) -> Score | None:
    """The score of two plain decimal numbers, None where either is anything else."""
    wanted, given = _number(gold), _number(answer)
    if wanted is None or given is None:
        return None
    return Score(1.0, f"{given} = {wanted}") if wanted == given else Score(0.0, f"{given} is not {wanted}")


def _number(text: str) -> Decimal | None:
    found = _NUMBER.fullmatch(text.strip())
    return Decimal(found[1].replace(",", "")) if found else None


def _score(request: dict[str, str], reply: dict[str, Any]) -> Score:
    pair = f"answer {_short(request['answer'])}, gold {_short(request['gold'])}"
    if "error" in reply:
        return Score(None, f"{reply['error']}: {pair}")
    if reply["equal"]:
        return Score(1.0, f"equal: {pair}")
    return Score(0.0, f"{reply.get('why', 'different')}: {pair}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:199] + "…")
