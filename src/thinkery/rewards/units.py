"""Texts as sequences of units, so that English and Chinese can be compared the same way.

A unit is a word or a number, or a single character of a script written without spaces (Han, kana, Thai). Case, width
and punctuation do not matter, a minus or decimal point does not either: units compare texts, they do not do sums.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b

_UNSPACED = "\u0e01-\u0e4e\u3005\u3007\u3041-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def units(text: str) -> list[str]:
    """The words, numbers and unspaced characters of a text, in order, normalised."""
    return _UNIT.findall(unicodedata.normalize("NFKC", text).casefold())


def ngrams(text: str, n: int) -> list[str]:
    """Every run of n units, in order; none for a shorter text."""
    found = units(text)
    return [" ".join(found[i : i + n]) for i in range(len(found) - n + 1)]


def digest(text: str) -> int:
    """64 bits that stand for a text, the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
