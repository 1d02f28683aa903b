"""How much of a text says again what it has already said: 0 for fresh text, near 1 for a loop."""

from __future__ import annotations

from thinkery.data.units import ngrams


def repetition(text: str, n: int = 8) -> float:
    """The share of a text's n-grams (words, or characters of Chinese) that occurred in it before; 0 for short texts."""
    found = ngrams(text, n)
    return 1 - len(set(found)) / len(found) if found else 0.0
