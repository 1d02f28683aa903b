"""The process that compares mathematical answers, one JSON line in, one out; `math_answer` starts and stops it.

    python -m thinkery.rewards.math_worker 5        # seconds of CPU a comparison may take

    {"id": 1, "gold": "1/2", "answer": "0.5"}  ->  {"equal": true}, {"equal": false, "why": "…"} or {"error": "…"}
    {"id": 2, "gold": "1/2"}                   ->  {"readable": true}           (each with its id)

Symbolic comparison can hang or swallow all memory, so nothing else lives here. The process that was started only
prepares: it imports sympy, fills the parser's tables, and forks the one that answers. When that one ends, by SIGTERM
to its parent or otherwise, another takes its place within milliseconds and says {"ready": …, "after": its signal or
exit status}. No alarm is set: the caller keeps the clock. The process limits its own memory, and its CPU time too, so
that it ends even without a caller.

Two things make math-verify faster and change no result: the parser first predicts without its context (ANTLR's SLL
mode: the same tree or a syntax error), which is enough for most answers; and whole numbers are not parsed as Python.
A sum is no answer to "what is 3+4": where gold is a plain number, the answer must be worked out too. Two things are
held against math-verify's verdict: numbers in other bases differ, and six decimals are too few for a small number.
Not handled: answers in prose with more than one number, units that change the value (1 m is not 100 cm).
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import resource
import signal
import sys
import time
from typing import Any

import sympy
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2
from math_verify import LatexExtractionConfig, parse, verify

from thinkery.rewards.formula import is_plain, same_text, tidy
from thinkery.rewards.notation import FORMULA, UNREADABLE, enclosed

MEMORY_BYTES = 2 << 30
ROUNDING = 1e-3
"""How far a rounded answer may be from gold, relative to gold, where math-verify's six decimals say less."""
ZERO = 1e-13
"""How far from zero a difference of roots may come out that is zero."""
AWAITED = {signal.SIGTERM, signal.SIGCHLD}
TYPICAL = (
    (r"\frac{3 \sqrt{3}}{14}", r"2\pi"),
    ("2x^2 - 12x + 20", "(x-1)(x+1)"),
    (r"\left( 3, \frac{\pi}{2} \right)", "(3, 1.5, -2)"),
    (r"[-2,1) \cup (3,\infty)", "[0,5]"),
    (r"\begin{pmatrix} 1 & 0 \\ 0 & -1 \end{pmatrix}", r"\{1,2\}"),
    (r"90^\circ", r"8\text{ cm}"),
    ("x=5", r"y \le 3"),
    (r"2^{10}", r"50\%"),
    ("3+4i", "1,-1,3"),
)
"""Answers read before the first fork: the parsers build their tables on first use."""
_COMMAND = re.compile(r"\\(?:text|mbox|textbf|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|\{[^{}]*\}")
_FUNCTIONS = r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|exp|sqrt|min|max|gcd|lcm|mod|and"
_WORD = re.compile(rf"(?<!\S)(?!(?:{_FUNCTIONS})\b)[A-Za-z]{{3,}}(?=[\s.,:;!?]|$)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?(?![\w/^])")
_LIST_OF_NUMBERS = re.compile(r"\d\s+[-+]?\d")
_BASE = re.compile(r"[0-9A-Z]\)?\s*_\s*\{?\s*(\w+)")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_MIXED_NUMBER = re.compile(r"(-?\d+)\s+(\d+)/(\d+)")
_INTEGER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)")  # not a list: 1,2
_RATIONAL = re.compile(r"-?(?:\d*\.\d+|\d+/\d+|\d*\s*\\[dt]?frac\{?\d+\}?\{?\d+\}?)")
_POWER_OF_TEN = re.compile(r"(?:\\times|\\cdot|\*)?\s*(?<![\d.])10\s*\^\s*(?:\{-?\d+\}|-?\d+)|\^\s*\{?\s*\\circ\}?")
_OPERATION = re.compile(
    r"(?<=[\d)}])\s*(?:[-+*!]|\\cdot|\\times|\\div)|(?<=[\d)])\s*[(^]"
    r"|(?<![A-Za-z])\\?(?:sqrt|[dt]?binom|sum|prod|int|lim|log|ln|sin|cos|tan|gcd|lcm|lfloor|lceil)(?![a-z])"
    r"|\\(?:choose|[bp]?mod|max|min)(?![a-z])"
)
_DIVISION = re.compile(r"/|\\[cdt]?frac|\\over(?![a-z])")
_SCIENTIFIC = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})(?![\w.])")
_UNIT = re.compile(
    r"(?<=[\d}])(?:\s|\\[ ,;!]|~)*/?\s*\\(?:text|mbox|mathrm)\s*\{[^{}\d]*/?[^{}\d]*\}(?:\s*\^\s*\{?\d\}?)?\s*$"
    r"|(?<=\d)\s*(?:k?m|cm|mm|mi|miles?|ft|feet|k?g|L|lit(?:er|re)s?|gallons?|dollars?|cents?)\s*"
    r"(?:/|per)\s*(?:h|hr|hours?|s|sec|seconds?|min|minutes?|days?|weeks?)(?:\s*\^\s*\{?\d\}?)?\s*$"
)
_PLAIN = str.maketrans(
    {"−": "-", "×": "*", "·": "*", "÷": "/", "°": r"^\circ "}
    | {"≤": r"\le ", "≥": r"\ge ", "√": r"\sqrt ", "∞": r"\infty "}
)


class Parser(latex2sympy2.PSParser):
    """The LaTeX parser, at first in the mode that is fast and fails on some formulas."""

    def math(self) -> Any:
        """The whole text as a tree."""
        self._interp.predictionMode = PredictionMode.SLL
        try:
            return super().math()
        except Exception:  # the library's listener raises on a syntax error
            self.reset()
            self._interp.predictionMode = PredictionMode.LL
            return super().math()


class Converter(latex2sympy2._Latex2Sympy):
    """From the tree to sympy, whole numbers without sympy's own parser of Python."""

    def parse_number(self, text: str) -> Any:
        """A number of digits, commas and a point."""
        digits = text.replace(",", "")
        return sympy.Integer(int(digits)) if digits.isdecimal() else super().parse_number(text)


latex2sympy2.PSParser, latex2sympy2._Latex2Sympy = Parser, Converter


def main() -> None:
    """Prepare, then have a child answer until stdin closes, and another whenever it ends before."""
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    for gold, answer in TYPICAL:
        compare(gold, answer)
    for stream in (1, 2):  # only replies reach the pipe that was stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # else it might be dropped while it is blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    status: int | None = None
    while status is None or status < 0:  # a child that was killed has a successor, one that ended by itself has none
        child = os.fork()
        if not child:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
            print(json.dumps({"ready": True, "after": status}), file=replies, flush=True)
            serve(float(sys.argv[1]), replies)
            os._exit(0)
        status = _outlast(child)


def _outlast(child: int) -> int:
    """Wait until a child ends, and end it on SIGTERM; returns its exit status, or minus the signal that ended it."""
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if signal.sigwait(AWAITED) == signal.SIGTERM:
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(ended[1])


def serve(cpu_s: float, replies: Any) -> None:
    """Answer requests from stdin until it closes; each reply has its request's id."""
    with open(0, encoding="utf-8", closefd=False) as requests:
        for line in requests:
            _limit(resource.RLIMIT_CPU, int(time.process_time() + cpu_s) + 2)  # 2 s of grace for the caller's clock
            request = json.loads(line)
            print(json.dumps(handle(request) | {"id": request["id"]}), file=replies, flush=True)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; whatever goes wrong inside math-verify becomes an error."""
    try:
        if "answer" not in request:
            return {"readable": bool(read(request["gold"]))}
        return compare(request["gold"], request["answer"])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def compare(gold: str, answer: str) -> dict[str, Any]:
    """Whether two answers are the same mathematics; an unreadable gold is an error, an unreadable answer wrong."""
    reference = read(gold)
    if not reference:
        return {"error": UNREADABLE}
    if same_text(gold, answer):
        return {"equal": True}
    wanted, formula = _formula(gold), _formula(answer)
    bases, others = _bases(wanted), _bases(formula.rpartition("=")[2])
    if bases and others and bases != others:
        return {"equal": False, "why": "the answer is in another base"}
    if _INTEGER.fullmatch(wanted) or _RATIONAL.fullmatch(wanted):
        formula = _UNIT.sub("", formula.rpartition("=")[2]).strip()
        if _is_unworked(formula, fraction=not _INTEGER.fullmatch(wanted)):
            return {"equal": False, "why": "the answer is not worked out"}
    if not (found := read(formula)):
        return {"equal": False, "why": "the answer cannot be read as mathematics"}
    equal = bool(verify(list(reference), list(found), timeout_seconds=None, raise_on_error=True))
    return {"equal": equal and not _is_rounded_away(reference[0], found[0])}


@functools.lru_cache(maxsize=4096)
def read(text: str) -> tuple[Any, ...]:
    """What math-verify makes of an answer: (expression, its text), or () where there is no expression."""
    formula = _formula(text)
    if is_plain(formula):
        formula = tidy(formula)
    elif mixed := _MIXED_NUMBER.fullmatch(formula):
        formula = rf"{mixed[1]}\frac{{{mixed[2]}}}{{{mixed[3]}}}"
    elif _LIST_OF_NUMBERS.search(formula):
        return ()  # "1 2 3" would be read as a sum
    found = parse(rf"\boxed{{{formula}}}", [LatexExtractionConfig()], parsing_timeout=0)  # 0: none, sets no signal
    return tuple(found) if found and not isinstance(found[0], str) else ()


def _formula(text: str) -> str:
    """The one formula an answer consists of: what its dollars enclose, or the only number of a sentence."""
    if formulas := [enclosed(found).strip() for found in FORMULA.finditer(text)]:
        return ",".join(dict.fromkeys(formulas))
    text = text.strip().removesuffix(".").strip("*`").translate(_PLAIN).replace("**", "^")
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    numbers = _NUMBER.findall(text)
    if len(numbers) == 1 and _WORD.search(_COMMAND.sub(" ", text)):
        return numbers[0]
    return text


def _is_unworked(formula: str, fraction: bool) -> bool:
    """Whether an operation is left in a formula that should be a number; `fraction` allows a division."""
    formula = _POWER_OF_TEN.sub("", formula)
    return bool(_OPERATION.search(formula) or (not fraction and _DIVISION.search(formula)))


def _bases(formula: str) -> set[str]:
    """The bases that numbers are written in, such as 5 in 4210_5; math-verify compares their digits alone."""
    return {_BASES.get(found[1], found[1]) for found in _BASE.finditer(formula)}


def _is_rounded_away(gold: Any, answer: Any) -> bool:
    """Whether two numbers are equal only because six decimals say nothing of one that is so small."""
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return False
    wanted, given = (complex(number.doit()) for number in (gold, answer))  # 5% is not evaluated
    return max(ROUNDING * abs(wanted), ZERO) < abs(wanted - given) < 1e-5


def _limit(what: int, soft: int) -> None:
    """Lower a limit of this process, never above what it was given."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
