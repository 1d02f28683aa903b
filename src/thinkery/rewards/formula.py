r"""Plain formulas, read in microseconds: enough to see that most wrong answers are wrong and most right ones are right.

    same_text(r"\dfrac{1}{2}", r"$\frac{1}{2}$")     # True
    far_apart(r"\frac{3 \sqrt{3}}{14}", r"2\pi")     # True: their values differ
    far_apart("x^2 - 1", "(x-1)(x+1)")               # False: whether they are equal takes symbolic comparison

A formula consists of numbers, letters, + - * / ^, \frac, \sqrt, \pi and brackets; every letter has a number of its own,
whatever its case, as in math-verify. A point or an interval, such as (3, \frac{\pi}{2}) or (-\infty, 2], is read too.
Whatever could be read in two ways is no plain formula: 2\frac12, 1/2x, f(x), 2^10, \sqrt13, 5 -3, words, lists, 5%.
"""

from __future__ import annotations

import cmath
import functools
import math
import re
from typing import NamedTuple

from thinkery.rewards.notation import enclosed

FAR_APART = 1e-3
"""How much two values must differ, relative to the larger or to 1, so that no rounding makes them equal."""
LARGEST = 1e9
"""Formulas with larger terms are left alone, so that rounding errors stay far below `FAR_APART`."""
LONGEST = 200
"""Characters; brackets in a longer text might be nested too deeply."""

_STYLES = {
    r"\!": "", r"\left": " ", r"\right": " ", r"\,": " ", r"\;": " ", r"\ ": " ", r"\dfrac": r"\frac",
    r"\tfrac": r"\frac", r"\times": "*", r"\cdot": "*", "×": "*", "·": "*", "−": "-", "π": r"\pi ",
}  # fmt: skip
_STYLE = re.compile(r"\\(?:left|right|[dt]frac|times|cdot)(?![a-z])|\\[!,; ]|[×·−π]")
_TWO_DIGITS = re.compile(r"\\frac\s*(\d)(\d)(?!\d)")
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\\(?:frac|sqrt|pi)(?![a-z])|[A-Za-z]|[-+*/^(){}]")
_LETTER = re.compile(r"(?<![A-Za-z\\])[a-z](?![a-z])")
_LISTED = re.compile(r"([\[(])([^,]*(?:,[^,]*)+)([\])])", re.DOTALL)
_INFINITY = re.compile(r"\s*([-+]?)\s*(?:\\infty|∞)\s*")
_SCIENTIFIC = re.compile(r"\d[eE][-+]?\d")
_LIST = re.compile(r"\d\s+[-+]\d")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2}")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm)\s*\{([^{}]*)\}")
_LETTERS = {"i": 1j, "e": math.e}
_QUOTED = re.compile(r"\$\$?(.+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_OPERATION = re.compile(
    r"[-+*/^!=]|\\(?:[dt]?frac|sqrt|cdot|times|[dt]?binom|sum|prod|int|lim|log|ln"
    r"|(?:arc)?(?:sin|cos|tan|cot|sec|csc))(?![a-z])|vmatrix"
)
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\d|\{\d+\})\s*(?:\d|\{\d+\})|\d+/\d+")
_REWRITTEN = re.compile(r"decimal|simplif|reduce|lowest", re.IGNORECASE)
_LOOSE = re.compile(r"[{}*]")
_SLASHED = re.compile(r"\\frac(?:\{(\w+)\}|(\w))(?:\{(\w+)\}|(\w))")
_FILLING = re.compile(r"[()\[\]~]|\\(?:displaystyle|textstyle|q?quad|[bB]igg?[lr]?)(?![a-z])")


def same_text(one: str, other: str) -> bool:
    r"""Whether two answers are written alike, but for dollars, \text, \left, \dfrac, white space and case."""
    return one == other or _bare(one) == _bare(other)


def copied(question: str, gold: str, answer: str) -> bool:
    r"""Whether an answer is a formula that the question quotes in dollars or brackets, and not what gold says.

    "Expand $(x+1)^2$", "Compute $\sin \frac{\pi}{6}$" and "given that $x + y = 2$" have the answer's value in them.
    Only what has something to work out counts, since a number or a name may well be in the question and be the answer;
    so may a fraction, unless it is to be written otherwise.
    """
    if not _is_work(question, answer):
        return False
    said = _loose(answer)
    return said != _loose(gold) and any(_loose(one) == said for one in quoted(question))


def disguised(question: str, gold: str, answer: str) -> list[str]:
    r"""The formulas of a question, and sides of its equations, that an answer has in it or reorders: 0+1\cdot(x+1)^2.

    Where one of them is equal to gold, the answer is copied, unless what it says `besides` is equal too.
    """
    said, wanted = _core(answer), _core(gold)
    if _parts(said) == _parts(wanted):
        return []
    sides = [_parts(_core(side)) for side in _sides(answer)]
    formulas = [part for one in quoted(question) for part in (one, *one.split("="))]
    found = {one: _core(one) for one in formulas if _is_work(question, one)}
    return [one for one, core in found.items() if core and core != wanted and (core in said or _parts(core) in sides)]


def besides(formula: str, answer: str) -> list[str]:
    """The sides of an answer's equations that are neither a side of a formula, in any order, nor have its last in them.

    A side may well be in the formula: 5a - 4a = a.
    """
    last = _core(formula.rpartition("=")[2])
    known = {_parts(_core(one)) for one in (formula, *formula.split("="))}
    cores = {side: _core(side) for side in _sides(answer)}
    return [side for side, core in cores.items() if last not in core and _parts(core) not in known]


def quoted(question: str) -> list[str]:
    """What stands in a text's dollars, or in brackets that are as good."""
    return [enclosed(found) for found in _QUOTED.finditer(question)]


def is_plain(text: str) -> bool:
    """Whether a text is a plain formula."""
    return _read(text) is not None


def tidy(text: str) -> str:
    r"""The same formula in one style: \frac for \dfrac, no \left and thin spaces, no dollars, no final stop."""
    text = _STYLE.sub(lambda style: _STYLES[style[0]], text.strip().removesuffix(".").strip("$ "))
    return _TWO_DIGITS.sub(r"\\frac{\1}{\2}", text).strip()


def far_apart(one: str, other: str) -> bool:
    """Whether two texts are plain formulas in the same letters and brackets whose values clearly differ."""
    first, second = _read(one), _read(other)
    if first is None or second is None or first.form != second.form:
        return False
    values = zip(first.values, second.values, strict=True)
    return any(abs(a - b) > FAR_APART * max(1.0, abs(a), abs(b)) for a, b in values)


def _bare(text: str) -> str:
    text = _STYLE.sub(lambda style: _STYLES[style[0]], _TEXT.sub(r"\1", text))
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)|\$|\.$", "", text).casefold()


def _loose(text: str) -> str:
    return _LOOSE.sub("", _bare(text))


def _core(text: str) -> str:
    """A formula without what may be put anywhere in it and changes nothing, or the order of working alone."""
    slashed = _SLASHED.sub(lambda fraction: "/".join(filter(None, fraction.groups())), _bare(text))
    return _FILLING.sub("", _loose(slashed)).strip(".,;")


def _parts(core: str) -> str:
    """The characters of a formula: those of x^2-1 and -1+x^2 are the same."""
    return "".join(sorted(core.replace("+", "")))


def _sides(answer: str) -> list[str]:
    """What stands between the = of an answer's formulas."""
    return [side for one in quoted(answer) or [answer] for side in one.split("=")]


def _is_work(question: str, formula: str) -> bool:
    """Whether a formula has something to work out; a fraction has where the question wants it written otherwise."""
    bare = _DEGREES.sub("", formula).strip(" $").lstrip("+-")
    return bool(_OPERATION.search(bare)) and not (_FRACTION.fullmatch(bare) and not _REWRITTEN.search(question))


class _Plain(NamedTuple):
    values: tuple[complex, ...]
    form: tuple[str, ...]
    """Brackets and letters: formulas of another form may be equal all the same."""


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> _Plain | None:
    """The value of a plain formula, or the values of a point or an interval; None for any other text."""
    text = tidy(text)
    letters = "".join(sorted(set(_LETTER.findall(text.lower()))))
    if len(text) > LONGEST or _SCIENTIFIC.search(text) or (_LIST.search(text) and not letters):
        return None
    listed = _LISTED.fullmatch(text)
    parts, brackets = (listed[2].split(","), listed[1] + listed[3]) if listed else ([text], "")
    values = [_value(part) for part in parts]
    found = tuple(value for value in values if value is not None)
    return _Plain(found, (brackets, str(len(found)), letters)) if len(found) == len(values) else None


def _value(text: str) -> complex | None:
    """The value of one plain formula."""
    if infinity := _INFINITY.fullmatch(text):
        return -math.inf if infinity[1] == "-" else math.inf
    if _WORD.search(text) or _TOKEN.sub("", text).strip():
        return None
    reader = _Reader(_TOKEN.findall(text))
    try:
        value = reader.sum()
    except (_NotPlain, ArithmeticError):
        return None
    return None if reader.next else value


class _NotPlain(Exception):
    """The text is no formula, or could be read in two ways."""


class _Reader:
    """Recursive descent: every method reads one part of a formula and returns its value."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place = tokens, 0

    @property
    def next(self) -> str:
        """The token to be read, "" at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        """Read one token."""
        token = self.next
        self.place += 1
        return token

    def sum(self) -> complex:
        """Terms with + and - between them, and perhaps one before the first."""
        total = 0j if self.next in ("+", "-") else self.product()
        while self.next in ("+", "-"):
            total += self.product() if self.take() == "+" else -self.product()
        if not abs(total) <= LARGEST:
            raise _NotPlain
        return total

    def product(self) -> complex:
        """Factors with *, / or nothing between them."""
        total, divided = self.power(), False
        while self.next == "*" or self.next == "/" or self.is_factor():
            if self.next == "/":
                self.take()
                total, divided = total / self.power(), True
                continue
            if self.next == "*":
                self.take()
            elif divided or not self.may_follow():
                raise _NotPlain
            total *= self.power()
        if not abs(total) <= LARGEST:
            raise _NotPlain
        return total

    def is_factor(self) -> bool:
        """Whether a factor begins here."""
        return self.next[:1].isalnum() or self.next[:1] in ("\\", "(", "{")

    def may_follow(self) -> bool:
        """Whether a factor without a sign before it is multiplied, and is no mixed number or call of a function."""
        before = self.tokens[self.place - 1]
        if before[0].isdigit():
            return not self.next[0].isdigit() and self.next != r"\frac"
        return not self.next[0].isdigit() and not (before.isalpha() and self.next == "(")

    def power(self) -> complex:
        """A factor with its exponent."""
        base = self.factor()
        if self.next != "^":
            return base
        self.take()
        return base ** self.argument()

    def argument(self) -> complex:
        """What stands in braces, or a single character."""
        if self.next != "{" and not (len(self.next) == 1 and self.next.isalnum()):
            raise _NotPlain
        return self.factor()

    def factor(self) -> complex:
        """A number, a letter, a fraction, a root, or what stands in brackets."""
        token = self.take()
        if token[:1].isdigit():
            return complex(token)
        if token.isalpha():
            return _LETTERS.get(token.lower(), 1 + ord(token.lower()) * 0.618 % 1)
        if token == r"\pi":
            return math.pi
        if token == r"\frac":
            return self.argument() / self.argument()
        if token == r"\sqrt":
            return cmath.sqrt(self.argument())
        if token not in ("(", "{"):
            raise _NotPlain
        total = self.sum()
        if self.take() != {"(": ")", "{": "}"}[token]:
            raise _NotPlain
        return total
