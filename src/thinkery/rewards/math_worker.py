"""The process that compares mathematical answers, one JSON line in, one out; `math_answer` starts and kills it.

    python -m thinkery.rewards.math_worker 5        # seconds of CPU a comparison may take

    {"gold": "1/2", "answer": "0.5"}  ->  {"equal": true}, {"equal": false, "why": "…"} or {"error": "…"}
    {"gold": "1/2"}                   ->  {"readable": true}

Symbolic comparison can hang or swallow all memory, so nothing else lives here. No signal is set: the parent
keeps the clock. The process limits its own memory, and its CPU time too, so that it ends even without a parent.
A sum is no answer to "what is 3+4": where gold is a plain number, the answer must be worked out too.
Not handled: answers in prose with more than one number, units that change the value (1 m is not 100 cm).
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import resource
import sys
import time
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

MEMORY_BYTES = 2 << 30
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_COMMAND = re.compile(r"\\(?:text|mbox|textbf|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|\{[^{}]*\}")
_FUNCTIONS = r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|exp|sqrt|min|max|gcd|lcm|mod|and"
_WORD = re.compile(rf"(?<!\S)(?!(?:{_FUNCTIONS})\b)[A-Za-z]{{3,}}(?=[\s.,:;!?]|$)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?(?![\w/^])")
_LIST_OF_NUMBERS = re.compile(r"\d\s+[-+]?\d")
_MIXED_NUMBER = re.compile(r"(-?\d+)\s+(\d+)/(\d+)")
_INTEGER = re.compile(r"[-+]?[\d,]+")
_RATIONAL = re.compile(r"-?(?:\d*\.\d+|\d+/\d+|\d*\s*\\[dt]?frac\{?\d+\}?\{?\d+\}?)")
_POWER_OF_TEN = re.compile(r"(?:\\times|\\cdot|\*)?\s*\b10\s*\^\s*(?:\{-?\d+\}|-?\d+)|\^\s*\{?\s*\\circ\}?")
_OPERATION = re.compile(
    r"(?<=[\d)}])\s*(?:[-+*!]|\\cdot|\\times|\\div)|(?<=[\d)])\s*[(^]"
    r"|(?<![A-Za-z])\\?(?:sqrt|binom|sum|prod|int|lim|log|ln|sin|cos|tan|gcd|lcm|lfloor|lceil)(?![a-z])"
)
_DIVISION = re.compile(r"/|\\[dt]?frac")
_PLAIN = str.maketrans(
    {"−": "-", "×": "*", "·": "*", "÷": "/", "≤": r"\le ", "≥": r"\ge ", "√": r"\sqrt ", "∞": r"\infty "}
)


def main() -> None:
    """Answer requests from stdin until it closes; only replies reach the pipe that was stdout."""
    cpu_s = float(sys.argv[1])
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    compare("1/2", "0.5")  # the parsers build their tables on first use
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    for line in sys.stdin:
        _limit(resource.RLIMIT_CPU, int(time.process_time() + cpu_s) + 2)  # 2 s of grace for the parent's clock
        print(json.dumps(handle(json.loads(line))), file=replies, flush=True)


def handle(request: dict[str, str]) -> dict[str, Any]:
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
        return {"error": "the gold answer cannot be read as mathematics"}
    if _bare(gold) == _bare(answer):
        return {"equal": True}
    wanted, formula = _formula(gold), _formula(answer)
    if _INTEGER.fullmatch(wanted) or _RATIONAL.fullmatch(wanted):
        formula = formula.rpartition("=")[2].strip()
        if _is_unworked(formula, fraction=not _INTEGER.fullmatch(wanted)):
            return {"equal": False, "why": "the answer is not worked out"}
    if not (found := read(formula)):
        return {"equal": False, "why": "the answer cannot be read as mathematics"}
    return {"equal": bool(verify(list(reference), list(found), timeout_seconds=None, raise_on_error=True))}


@functools.lru_cache(maxsize=4096)
def read(text: str) -> tuple[Any, ...]:
    """What math-verify makes of an answer: (expression, its text), or () where there is no expression."""
    formula = _formula(text)
    if mixed := _MIXED_NUMBER.fullmatch(formula):
        formula = rf"{mixed[1]}\frac{{{mixed[2]}}}{{{mixed[3]}}}"
    elif _LIST_OF_NUMBERS.search(formula):
        return ()  # "1 2 3" would be read as a sum
    found = parse(rf"\boxed{{{formula}}}", [LatexExtractionConfig()], parsing_timeout=0)  # 0: none, sets no signal
    return tuple(found) if found and not isinstance(found[0], str) else ()


def _formula(text: str) -> str:
    """The one formula an answer consists of: what its dollars enclose, or the only number of a sentence."""
    enclosed = ["".join(groups).strip() for groups in _FORMULA.findall(text)]
    if enclosed:
        return ",".join(dict.fromkeys(enclosed))
    text = text.strip().removesuffix(".").translate(_PLAIN).replace("**", "^")
    numbers = _NUMBER.findall(text)
    if len(numbers) == 1 and _WORD.search(_COMMAND.sub(" ", text)):
        return numbers[0]
    return text


def _is_unworked(formula: str, fraction: bool) -> bool:
    """Whether an operation is left in a formula that should be a number; `fraction` allows a division."""
    formula = _POWER_OF_TEN.sub("", formula)
    return bool(_OPERATION.search(formula) or (not fraction and _DIVISION.search(formula)))


def _bare(text: str) -> str:
    """An answer without dollars, \\text{} and white space, for answers that are words."""
    text = re.sub(r"\\(?:text|mbox|mathrm)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[\s$]|\\[,!;]|\.$", "", text).casefold()


def _limit(what: int, soft: int) -> None:
    """Lower a limit of this process, never above what it was given."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
