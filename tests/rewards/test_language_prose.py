"""Language shares of texts spliced from prose that nobody here wrote: Debian's translated manual pages.

    apt-get install manpages manpages-{de,es,fr,it,ja,pl,pt-br,ru,zh}

A text is two to eight sentences in two or three languages, so its true share is known from the splice. Sentences are
taken as they stand, with their options and file names, where at least 90 % of the characters are letters or spaces;
sentences that the translators left in English are dropped by their function words.
"""

from __future__ import annotations

import functools
import gzip
import random
import re
from pathlib import Path
from statistics import fmean

import pytest

from thinkery.rewards.language import language_share

MANUAL = Path("/usr/share/man")
FOLDERS = {
    "en": "", "de": "de", "es": "es", "fr": "fr", "it": "it", "ja": "ja", "pl": "pl", "pt": "pt_BR", "ru": "ru",
    "zh": "zh_CN",
}  # fmt: skip
PAGES = 400
TEXTS = 150
ROFF = re.compile(r"\\f(?:\[\w*\]|\(..|.)|\\s[-+]?\d|\\[&/,|^:%]")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_])|(?<=[。！？])")
ENGLISH = re.compile(r"\b(?:the|of|is|are|this|if|with|and|be|for|to)\b", re.IGNORECASE)
HAN_OR_KANA = "\u3041-\u3096\u30a1-\u30fa\u3400-\u9fff"
WORD = re.compile(rf"[{HAN_OR_KANA}]|[^\W\d_{HAN_OR_KANA}]{{2,}}")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sum((MANUAL / folder / "man1").is_dir() for folder in FOLDERS.values()) < 8,
        reason="fewer than 8 languages of manual pages are installed (apt-get install manpages-de …)",
    ),
]


@functools.cache
def sentences(language: str) -> list[str]:
    """Sentences of prose from the manual pages of a language, in an order of their own."""
    pages = sorted((MANUAL / FOLDERS[language]).glob("man[1-8]/*.gz"))
    random.Random(language).shuffle(pages)
    found: dict[str, None] = {}
    for page in [page for page in pages if not page.name.startswith("gcloud")][:PAGES]:  # half of all, not Debian's
        for paragraph in paragraphs(page, "" if language in ("ja", "zh") else " "):
            found.update(dict.fromkeys(one for one in SENTENCE.split(paragraph) if is_prose(one, language)))
    return list(found)


def paragraphs(page: Path, space: str) -> list[str]:
    """The runs of text lines between the macros of a page."""
    lines = gzip.decompress(page.read_bytes()).decode("utf-8", errors="replace").splitlines()
    plain = ["" if line.startswith((".", "'")) else ROFF.sub("", line).replace(r"\-", "-").strip() for line in lines]
    return [paragraph.replace("\n", space) for paragraph in re.split(r"\n\n+", "\n".join(plain))]


def is_prose(sentence: str, language: str) -> bool:
    """Whether a piece of a page is a sentence in its language, and not a table, a listing or left untranslated."""
    letters = [c for c in sentence if c.isalpha()]
    plain = sum(c.isalpha() or c.isspace() or c in ".,;:!?'。、，" for c in sentence)
    own_script = language not in ("ru", "ja", "zh") or sum(not c.isascii() for c in letters) >= 0.8 * len(letters)
    untranslated = language != "en" and ENGLISH.search(sentence)
    return len(letters) >= 20 and plain >= 0.9 * len(sentence) and own_script and not untranslated


def splice(rng: random.Random, target: str, languages: list[str]) -> tuple[str, float]:
    """A text, and the share of its words that stand in sentences of the target language."""
    others = rng.sample([one for one in languages if one != target], rng.choice([1, 2]))
    drawn = [rng.choice([target, target, *others]) for _ in range(rng.randint(2, 8))]
    pieces = [rng.choice(sentences(language)) for language in drawn]
    counts = [len(WORD.findall(piece)) for piece in pieces]
    own = sum(count for count, language in zip(counts, drawn, strict=True) if language == target)
    return " ".join(pieces), own / sum(counts)


def test_shares_agree_with_splices_of_prose_in_at_least_eight_languages() -> None:
    languages = [language for language in FOLDERS if len(sentences(language)) > 300]
    assert len(languages) >= 8
    agreement: dict[str, float] = {}
    for target in languages:
        rng = random.Random(f"splice/{target}")
        texts = [splice(rng, target, languages) for _ in range(TEXTS)]
        agreement[target] = fmean(1 - abs((language_share(text, target) or 0.0) - share) for text, share in texts)
        print(f"{target}: {agreement[target]:.1%} of {len(texts)} texts, {len(sentences(target))} sentences")
    print(f"all: {fmean(agreement.values()):.1%}")
    assert fmean(agreement.values()) >= 0.97
    assert min(agreement.values()) >= 0.95
