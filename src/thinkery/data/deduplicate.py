"""Say once: texts that were seen before, exactly or nearly (MinHash with banding, Broder 1997).

seen = Deduplicator(near=0.8)
if earlier := seen.duplicate_of(id, text): ...     # the id of the text it repeats; a new text is remembered
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from thinkery.rewards.units import digest, ngrams, units

_PRIME = np.uint64(4_294_967_311)  # the first above 2^32: products of two 32-bit numbers stay inside 64 bits
_HASHES, _ROWS = 64, 4


class Deduplicator:
    """Remembers texts; memory grows with their number (about 1 kB each with `near`, 100 bytes without).

    Texts equal but for case, punctuation and white space are duplicates. With `near`, so are texts whose sets of
    5-grams have an estimated Jaccard similarity of at least `near` (standard error about 0.06; 0.6 and up is found
    reliably).
    """

    def __init__(self, near: float | None = None) -> None:
        self.near = near
        self._exact: dict[int, str] = {}
        self._sketches: dict[str, np.ndarray] = {}
        self._bands: defaultdict[tuple[int, bytes], list[str]] = defaultdict(list)
        draws = np.random.default_rng(0)  # any fixed family of hash functions will do
        self._a, self._b = draws.integers(1, 2**32, (2, _HASHES, 1), dtype=np.uint64)

    def duplicate_of(self, id: str, text: str) -> str | None:
        """The id of an earlier text that this one repeats; otherwise None, and the text is remembered as `id`."""
        key = digest(" ".join(units(text)) or text)
        if key in self._exact:
            return self._exact[key]
        grams = ngrams(text, 5) if self.near is not None else []
        if grams and (earlier := self._near(id, grams)):
            return earlier
        self._exact[key] = id
        return None

    def _near(self, id: str, grams: list[str]) -> str | None:
        """The id of a similar earlier text; otherwise remembers this one's sketch."""
        hashes = np.array([digest(gram) & 0xFFFFFFFF for gram in set(grams)], dtype=np.uint64)
        sketch = ((self._a * hashes + self._b) % _PRIME).min(axis=1)
        bands = [(i, sketch[i : i + _ROWS].tobytes()) for i in range(0, _HASHES, _ROWS)]
        for candidate in dict.fromkeys(other for band in bands for other in self._bands.get(band, ())):
            if np.mean(self._sketches[candidate] == sketch) >= (self.near or 0):
                return candidate
        self._sketches[id] = sketch
        for band in bands:
            self._bands[band].append(id)
        return None
