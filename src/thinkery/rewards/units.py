"""Texts as sequences of units, so that English and Chinese can be compared the same way.

A unit is a word or a number with its combining marks, or a single character of a script written without spaces (Han,
kana, Thai). Case, width and punctuation do not matter, a minus or decimal point does not either: units compare texts,
they do not do sums. Where two sums must not be taken for one, `units_and_signs` keeps what stands between the numbers.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b

_UNSPACED = "\u0e01-\u0e4e\u3005\u3007\u3041-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MARKS = "".join(
    c for c in map(chr, (*range(0x300, 0x3000), *range(0xA600, 0xAC00))) if unicodedata.category(c) in ("Mc", "Mn")
)
_WORD = rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:[{_MARKS}]+[^\W_{_UNSPACED}]*)*"
_LETTER = r"[^\W\d_]"
_SIGN = (
    r"[#%&()+/<=>@\[\\\]^{|}~\xac\xb1\xf7\u2190-\u23ff]"  # the last are arrows and operators
    rf"|(?<!{_LETTER})-|-(?!{_LETTER})|(?<=(?<!{_LETTER}){_LETTER})-(?={_LETTER}(?!{_LETTER}))"  # no hyphen
    r"|(?<=[^\W_]|[)}\]])_(?=[^\W_]|[{\\])|(?<=[\w)}\]])\*+(?=[\w({\[|\\-])|(?<=[^\S\n])\*+(?=\s)"  # no emphasis
    r"|(?<=\d)[.:](?=\d)|(?<=[\d)])!|'(?=['(])"  # of 1.5, 3:1, 5! and f'(x)
)
_TYPED = str.maketrans("−×·", "-**")
_UNIT, _UNIT_OR_SIGN = re.compile(_WORD), re.compile(f"{_WORD}|{_SIGN}")


def units(text: str) -> list[str]:
    """The words, numbers and unspaced characters of a text, in order, normalised."""
    return _UNIT.findall(unicodedata.normalize("NFKC", text).casefold())


def units_and_signs(text: str) -> list[str]:
    """The units of a text and the signs of formulas and programs between them, as in `12 + 5`; commas are none.

    Nor are dollars, backquotes, and the stars and lines of emphasis.
    """
    return _UNIT_OR_SIGN.findall(unicodedata.normalize("NFKC", text).casefold().translate(_TYPED))


def ngrams(text: str, n: int) -> list[str]:
    """Every run of n units, in order; none for a shorter text."""
    found = units(text)
    return [" ".join(found[i : i + n]) for i in range(len(found) - n + 1)]


def digest(text: str) -> int:
    """64 bits that stand for a text, the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
