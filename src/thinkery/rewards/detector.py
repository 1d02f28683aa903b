"""Which of several languages that share a script is each word in? Each word's letters say, and its neighbours.

py3langid gives every word, on its own, a likelihood in each language (naive Bayes over bytes); too little to decide,
but languages change rarely. So the words are labelled by the likeliest path of a hidden Markov model whose states
are the languages: staying is free, a change costs `SWITCH` nats inside a sentence and less between two. A name or a
word that several languages have thereby follows its neighbours, and so does anything too short to be told.

The model is loaded on first use (about 1 s and 90 MB); after that a word takes some 5 µs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

SWITCH = 14.0
"""What a change of language inside a sentence costs, in nats."""
SWITCH_BETWEEN = 5.0
"""What it costs between two sentences."""

RIVALS: dict[str, tuple[str, ...]] = {
    "latin": (
        "en", "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "da", "no", "fi", "cs", "hu", "ro", "tr", "id", "vi",
    ),
    "cyrillic": ("ru", "uk", "bg", "sr"),
    "arabic": ("ar", "fa", "ur"),
    "devanagari": ("hi", "mr", "ne"),
}  # fmt: skip
"""The languages told apart within a script; a target outside them joins them where py3langid knows it."""
HAN_IN_JAPANESE = -0.9
"""Log of the share of Han among the Han and kana of Japanese prose."""
KANA_IN_CHINESE = -7.0
"""Log of the share of kana in Chinese, which quotes Japanese now and then."""


def knows(language: str) -> bool:
    """Whether the detector has a model of a language."""
    return language in _columns()


def likeliest(words: Sequence[str], script: str) -> str:
    """The one language of a script that words taken together are most likely in."""
    columns = [_columns()[language] for language in RIVALS[script]]
    total = np.sum([_likelihoods(word) for word in words], axis=0)
    return RIVALS[script][int(total[columns].argmax())]


def tell_apart(words: Sequence[str], starts: Sequence[bool], script: str, target: str) -> list[bool]:
    """For each word of one script whether it is in language `target`; `starts[i]` says that a sentence begins there.

    The text is expected to be in `target`: another language at its beginning, too, costs a change.
    """
    languages = dict.fromkeys((target, *RIVALS[script]))
    columns = [_columns()[language] for language in languages]
    return _most_likely(np.stack([_likelihoods(word) for word in words])[:, columns], starts)


def is_japanese(kana: Sequence[bool], starts: Sequence[bool], *, expected: bool) -> list[bool]:
    """For each Han character and kana whether it is Japanese; Han are what those around them are.

    `kana[i]` says that character i is a kana; `expected` that the text should be Japanese, not Chinese.
    """
    japanese_N, chinese_N = np.where(kana, 0.0, HAN_IN_JAPANESE), np.where(kana, KANA_IN_CHINESE, 0.0)
    wanted, other = (japanese_N, chinese_N) if expected else (chinese_N, japanese_N)
    return [one == expected for one in _most_likely(np.stack([wanted, other], axis=1), starts)]


def _most_likely(likelihoods_NL: np.ndarray, starts: Sequence[bool]) -> list[bool]:
    """The likeliest path through N words and L languages: for each word whether it is in the first of them."""
    count, languages = likelihoods_NL.shape
    score_L = np.full(languages, -SWITCH)
    score_L[0] = 0.0
    changed_NL = np.empty((count, languages), dtype=bool)
    best_N = [0] * count
    for i in range(count):
        best_N[i] = int(score_L.argmax())
        change = score_L[best_N[i]] - (SWITCH_BETWEEN if starts[i] else SWITCH)
        changed_NL[i] = score_L < change
        score_L = np.maximum(score_L, change) + likelihoods_NL[i]
    language = int(score_L.argmax())
    path = []
    for i in range(count - 1, -1, -1):
        path.append(language == 0)
        if changed_NL[i, language]:
            language = best_N[i]
    return path[::-1]


@functools.lru_cache(maxsize=1 << 15)
def _likelihoods(word: str) -> np.ndarray:
    """The log-likelihood of a word in every language of the model, up to a constant."""
    text = f" {word} "  # beginnings and ends of words tell most
    temperature = math.sqrt(len(text.encode()))  # by which py3langid flattens its probabilities
    probabilities = dict(_identifier().rank(text))
    return np.array([temperature * math.log(max(probabilities[one], 1e-30)) for one in _columns()], dtype=np.float32)


@functools.cache
def _columns() -> dict[str, int]:
    """language → its place in what `_likelihoods` returns."""
    return {language: i for i, language in enumerate(_identifier().labels)}


@functools.cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads its tables

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
