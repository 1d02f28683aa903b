"""Language consistency (v1 §2.3.2): how much of the thought is in the language of the question.

Words are told apart by script alone. The rule:
- one word each: a run of letters of an alphabet (Latin, Cyrillic, Greek, Arabic, Hebrew, Devanagari, Thai), a Han
  character, a kana, a Hangul syllable block (R1 does not say how it cuts Chinese into words);
- neutral: digits, punctuation, a single letter of an alphabet (x, π, "a"), tags, code between backticks,
  LaTeX commands, and formulas between dollars or \\( \\);
- a language owns the scripts of `SCRIPTS`; one that is not listed is taken to be written in Latin letters.
Two languages of one script, such as English and French, are not told apart.
"""

from __future__ import annotations

import re
from collections import Counter

from thinkery.core import Completion, Score, Task

SCRIPTS: dict[str, frozenset[str]] = {
    "zh": frozenset({"han"}),
    "ja": frozenset({"han", "kana"}),
    "ko": frozenset({"hangul"}),
    "ru": frozenset({"cyrillic"}),
    "uk": frozenset({"cyrillic"}),
    "bg": frozenset({"cyrillic"}),
    "el": frozenset({"greek"}),
    "ar": frozenset({"arabic"}),
    "fa": frozenset({"arabic"}),
    "he": frozenset({"hebrew"}),
    "hi": frozenset({"devanagari"}),
    "th": frozenset({"thai"}),
}
_LATIN = frozenset({"latin"})
_NEUTRAL = re.compile(
    r"```.*?(?:```|$)|`[^`\n]*`|\$\$.+?\$\$|(?<!\\)\$[^$\n]+(?<!\\)\$|\\\(.+?\\\)|\\\[.+?\\\]"
    r"|\\[A-Za-z]+|</?\w+>",
    re.DOTALL,
)
_LETTERS = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_WORD = re.compile(
    r"(?P<han>[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
    r"|(?P<kana>[\u3041-\u3096\u30a1-\u30fa])"
    r"|(?P<hangul>[\uac00-\ud7a3])"
    rf"|(?P<latin>[{_LETTERS}](?:['’]?[{_LETTERS}])+)"
    r"|(?P<cyrillic>[\u0400-\u052f]{2,})"
    r"|(?P<greek>[\u0370-\u03ff\u1f00-\u1fff]{2,})"
    r"|(?P<arabic>[\u0620-\u065f\u066e-\u06d3\u06fa-\u06ff]{2,})"
    r"|(?P<hebrew>[\u05d0-\u05ea]{2,})"
    r"|(?P<devanagari>[\u0900-\u0963\u0970-\u097f]{2,})"
    r"|(?P<thai>[\u0e01-\u0e4e]{2,})"
)


def consistency(task: Task, completion: Completion) -> Score:
    """The share of the thought's words in the language of the question; without a thought, of the whole text's."""
    text = completion.text if completion.thought is None else completion.thought
    target = task.language or language_of(task.prompt)
    share = None if target is None else language_share(text, target)
    return Score(1.0, "no words to judge") if share is None else Score(share, f"{share:.0%} of the words are {target}")


def language_share(text: str, target: str) -> float | None:
    """Words in the scripts of language `target` / all words, from 0 to 1; None for a text without words."""
    scripts = SCRIPTS.get(target.partition("-")[0].lower(), _LATIN)
    words = _scripts_of(text)
    return sum(words[script] for script in scripts) / total if (total := words.total()) else None


def language_of(text: str) -> str | None:
    """The language most of a text's words could belong to, "en" standing for every Latin one; None without words."""
    words = _scripts_of(text)
    if words["kana"]:
        return "ja"
    script = words.most_common(1)[0][0] if words.total() else None
    return next((language for language, owned in SCRIPTS.items() if script in owned), script and "en")


def _scripts_of(text: str) -> Counter[str]:
    """How many words of each script."""
    return Counter(match.lastgroup or "" for match in _WORD.finditer(_NEUTRAL.sub(" ", text)))
