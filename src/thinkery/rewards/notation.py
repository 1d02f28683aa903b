r"""The writings of an answer that comparing would misread, put in one: signs in words, dollars inside, wide characters.

    usual("-$5$"), usual("minus 5"), usual("–5")     # "$-5$", "-5", "-5"
    usual("10\\,080"), usual("答案是5。")              # "10080", "5"
    usual("1$5$"), usual("not 5")                    # None: 15 or 5? 5 or not?

An answer that could be read in two ways is not read at all.
"""

from __future__ import annotations

import functools
import re

LONGEST = 5000
"""Characters; a longer answer is left as it is, since looking for its formulas might take long."""
NEAR = 40
"""How many characters before a formula or a sign are looked at."""
UNCLEAR = "the answer denies a number, or could be read in two ways"
UNREADABLE = "the gold answer cannot be read as mathematics"
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
"""What dollars, or brackets that are as good, enclose."""

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", ord("。"): ".", ord("−"): "-"}
_EMPTY = re.compile(r"\\varnothing(?![A-Za-z])")
_DASH = re.compile(r"(?<!\d)(?<!\d )–\s*(?=[\d\\$(.A-Za-z])")  # 3–5 is a range
_SIGN = re.compile(r"\b(?:minus|negative)\s+(?=[-\d$\\(.])|负\s*(?=[\d$\\(.])", re.IGNORECASE)
_BEFORE_SIGN = re.compile(
    r"(?:^|[=:,(\[{]|\b(?:is|are|was|be|of|to|and|or|equals|answer)|[是为])[\s*$]*$", re.IGNORECASE
)
_DENIED = re.compile(r"(?:\bnot\s+(?:equal\s+to\s+)?|n't\s+|不(?:是|等于|为)?\s*)[*$]*", re.IGNORECASE)
_DENIED_NUMBER = re.compile(rf"(?:{_DENIED.pattern})[-+]?[\d\\]", re.IGNORECASE)
_DENIED_FORMULA = re.compile(rf"(?:{_DENIED.pattern})$", re.IGNORECASE)
_GLUED_BEFORE = re.compile(r"[A-Za-z0-9/^]$")
_GLUED_AFTER = re.compile(r"[\d^]|/[\s\d$\\(]|[-+*]\d")
_MINUS = re.compile(r"-\s*$")
_OPERAND = re.compile(r"[\d$)}\]]\s*$|[A-Za-z]$|\b[A-Za-z]\s*$")
_BULLET = re.compile(r"(?:^|\n)\s*-\s+$")
_RELATION = re.compile(r"[=<>,]|\\(?:l|g|n)eq?(?![a-z])|\\pm(?![a-z])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[, ]|~)\d{3})+(?![\d.,])")
_SPACED_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?: \d{3})+")
_CHINESE = re.compile(
    r"(?:(?:所以|因此|故)?[,\s]{0,9}(?:最[后终]的?)?(?:答案|结果)就?(?:是|为|等于)?|一?共(?:有|计|是)?|总共(?:有|是)?|等于)?\s{0,9}:?\s{0,9}"
    r"(?P<number>-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?)"
    r"\s{0,9}[个元只本人块米天岁次张条件支头辆棵页名台位斤克秒升]?\s{0,9}\.?"
)
"""A number as a Chinese sentence gives it; what would change its value, as 万 or 半 does, is not among the words."""


@functools.lru_cache(maxsize=4096)
def usual(text: str) -> str | None:
    """The answer in the writing that is compared, or None where it denies what it names or reads in two ways."""
    if len(text) > LONGEST:
        return text
    signed = _signed(_DASH.sub("-", _EMPTY.sub(r"\\emptyset", text.translate(_WIDE))))
    found = None if signed is None else _unquoted(signed)
    if found is None:
        return None
    found = _THOUSANDS.sub(lambda number: re.sub(r"\\[, ]|~", "", number[0]), found)
    if _SPACED_THOUSANDS.fullmatch(found.strip()):
        return found.replace(" ", "")
    chinese = _CHINESE.fullmatch(found.strip())
    return chinese["number"] if chinese else found


def _signed(text: str) -> str | None:
    """The text with - for "minus" and "negative" before a number; None where something is subtracted."""
    if any(not _BEFORE_SIGN.search(_before(text, sign)) for sign in _SIGN.finditer(text)):
        return None
    return _SIGN.sub("-", text)


def _unquoted(text: str) -> str | None:
    """The text with the sign that stands directly before a formula's dollars inside them."""
    formulas = list(FORMULA.finditer(text))
    if not formulas:
        return None if _DENIED_NUMBER.search(text) else text
    parts, end = [], 0
    for formula in formulas:
        before, inside = text[end : formula.start()], next(filter(None, formula.groups()))
        so_far = _before(text, formula)
        if _GLUED_BEFORE.search(so_far) or _GLUED_AFTER.match(text[formula.end() :]) or _DENIED_FORMULA.search(so_far):
            return None
        minus = _MINUS.search(so_far)
        if minus and not (len(formulas) > 1 and _BULLET.search(so_far)):
            if _OPERAND.search(so_far[: minus.start()]) or _RELATION.search(inside) or minus[0] != "-":
                return None
            before, inside = before[:-1], f"-({inside})" if re.search("[-+]", inside) else f"-{inside.strip()}"
            parts += [before, f"${inside}$"]
        else:
            parts += [before, formula[0]]
        end = formula.end()
    return "".join(parts) + text[end:]


def _before(text: str, found: re.Match[str]) -> str:
    """The last characters before what was found."""
    return text[max(0, found.start() - NEAR) : found.start()]
