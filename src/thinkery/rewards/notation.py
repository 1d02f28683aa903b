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

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5E)} | {0x3000: " ", ord("。"): ".", ord("−"): "-"}
_EMPTY = re.compile(r"\\varnothing(?![A-Za-z])")
_DASH = re.compile(r"(?<!\d)(?<!\d )–(?=[\d\\$(.A-Za-z])|(?:(?<=[)}\]] )|(?<=(?<![A-Za-z])[A-Za-z] ))–(?= )")
"""A dash that is a minus: 3–5 is a range, and Answer – 5 no difference."""
_SIGN = re.compile(r"\b(?:minus|negative)\s+(?=[-\d$\\(.])|负\s*(?=[\d$\\(.])", re.IGNORECASE)
_BEFORE_SIGN = re.compile(
    r"(?:^|[=:,(\[{]|\b(?:is|are|was|be|of|to|and|or|equals|answer)|[是为]|等于)[\s*$]*$", re.IGNORECASE
)
_DENIED = re.compile(r"(?:\bnot\s+(?:equal\s+to\s+)?|n't\s+|不(?:是|等于|为)?\s*)[*$]*", re.IGNORECASE)
_DENIED_NUMBER = re.compile(rf"(?:{_DENIED.pattern})[-+]?[\d\\]", re.IGNORECASE)
_DENIED_FORMULA = re.compile(rf"(?:{_DENIED.pattern})[-+]?$", re.IGNORECASE)
_GLUED_BEFORE = re.compile(r"[A-Za-z0-9/^]$")
_GLUED_AFTER = re.compile(r"[\d^]|/[\s\d$\\(]|[-+*]\d")
_COEFFICIENT = re.compile(r"[-+]?(?:\d+(?:\.\d+)?)?[A-Za-z]?")
_EXPONENT_OR_TERM = re.compile(r"(?:\^(?:\\circ|\{\s*\\circ\s*\}|\d|\{\d+\})|\+\d+(?:\.\d+)?)?\s*\.?\s*")
_GROUP = re.compile(r"\{[^{}]*\}|\([^()]*\)")
_MINUS = re.compile(r"[-–]\s*$")
_OPERAND = re.compile(r"[\d$)}\]]\s*$|[A-Za-z]$|\b[A-Za-z]\s*$")
_BULLET = re.compile(r"(?:^|\n)\s*[-–]\s+$")
_LABEL = re.compile(r"\b(?!(?:is|are|was|be|of|to|and|or|equals)\b)[A-Za-z]{2,}\*{0,2}\s+$", re.IGNORECASE)
_NOUN = re.compile(r"\s+[A-Za-z]{2}")
_RELATION = re.compile(r"[=<>,]|\\(?:l|g|n)eq?(?![a-z])|\\pm(?![a-z])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[, ]|~)\d{3})+(?![\d.,])")
_SPACED_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?: \d{3})+")
_CHINESE = re.compile(
    r"(?:(?:所以|因此|故)?[,\s]{0,9}(?:最[后终]的?)?(?:答案|结果)就?(?:是|为|等于)?|一?共(?:有|计|是)?|总共(?:有|是)?|等于)?\s{0,9}:?\s{0,9}"
    r"(?P<number>-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?)"
    r"\s{0,9}[个元只本人块米天岁次张条件支头辆棵页名台位斤克秒升]?\s{0,9}\.?"
)
"""A number as a Chinese sentence gives it; what would change its value, as 万 or 半 does, is not among the words."""


def enclosed(formula: re.Match[str]) -> str:
    """What the dollars or brackets of a formula enclose, of a pattern with a group for each kind of them."""
    return next(filter(None, formula.groups()))


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
    """The text with - for "minus" and "negative" before a number; None where something is subtracted.

    Where there are formulas, only what stands in one or directly before it counts.
    """
    formulas = list(FORMULA.finditer(text))
    for sign in _SIGN.finditer(text):
        counts = not formulas or any(formula.start() <= sign.end() < formula.end() for formula in formulas)
        if counts and not _BEFORE_SIGN.search(_before(text, sign)):
            return None
    return _SIGN.sub("-", text)


def _unquoted(text: str) -> str | None:
    """The text with the sign that stands directly before a formula's dollars inside them."""
    formulas = list(FORMULA.finditer(text))
    if not formulas:
        return None if _DENIED_NUMBER.search(text) else text
    parts, end = [], 0
    for formula in formulas:
        before, inside = text[end : formula.start()], enclosed(formula)
        so_far, after = _before(text, formula), text[formula.end() :]
        if _GLUED_BEFORE.search(so_far) or _GLUED_AFTER.match(after):
            return _joined(text, formula) if len(formulas) == 1 else None
        if _DENIED_FORMULA.search(so_far):
            return None
        minus = _MINUS.search(so_far)
        if minus and minus[0] == "-":
            if _OPERAND.search(so_far[: minus.start()]) or _RELATION.search(inside):
                return None
            before, inside = before[:-1], f"-({inside})" if re.search("[-+]", inside) else f"-{inside.strip()}"
            parts += [before, f"${inside}$"]
        elif minus and not (len(formulas) > 1 and _BULLET.search(so_far)) and not _separates(minus, inside, after):
            return None
        else:
            parts += [before, formula[0]]
        end = formula.end()
    return "".join(parts) + text[end:]


def _separates(minus: re.Match[str], inside: str, after: str) -> bool:
    """Whether a minus with space after it is no sign: `- $x=5$`, `- $5$ apples`, `Answer - $5$`."""
    earlier = minus.string[: minus.start()]
    if _BULLET.search(minus.string):
        return bool(_RELATION.search(inside) or _NOUN.match(after))
    return not _OPERAND.search(earlier) and bool(_RELATION.search(inside) or _LABEL.search(earlier))


def _joined(text: str, formula: re.Match[str]) -> str | None:
    """An answer without its dollars, where what is glued to them can be read in one way: 10$^5$, but not 2$x+1$."""
    before, inside, after = text[: formula.start()].lstrip(), enclosed(formula).strip(), text[formula.end() :]
    if not (_COEFFICIENT.fullmatch(before) and _EXPONENT_OR_TERM.fullmatch(after)):
        return None
    is_number_again = before[-1:].isalnum() and re.match(r"[\d.,]", inside)
    unsigned = inside if before else inside.lstrip("+-")
    is_longer = re.search("[-+]", _GROUP.sub("", unsigned)) or _RELATION.search(inside, 1)
    is_power = re.match(r"\^\{?\d", after) and not re.fullmatch(r"\d+|[A-Za-z]", inside)
    return None if is_number_again or is_longer or is_power else before + inside + after


def _before(text: str, found: re.Match[str]) -> str:
    """The last characters before what was found."""
    return text[max(0, found.start() - NEAR) : found.start()]
