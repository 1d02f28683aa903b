"""Language consistency (v1 §2.3.2): how much of the thought is in the language of the question.

Scripts decide where they can, `detector` where languages share one. The rule:
- one word each: a run of letters of an alphabet (Latin, Cyrillic, Greek, Arabic, Hebrew, Devanagari, Thai), a Han
  character, a kana, a Hangul syllable block (R1 does not say how it cuts Chinese into words);
- neutral: digits, punctuation, a single letter of an alphabet (x, π, "a"), tags, LaTeX commands, formulas between
  dollars or \\( \\); code between backticks, and what looks like code outside them (x_max, utf8, main.py, a/b, --all,
  open(2)); names: one or two capitalised Latin words inside a sentence of another script;
- a language owns the scripts of `SCRIPTS`; one that is not listed is taken to be written in Latin letters;
- Han characters are Chinese, but Japanese where kana stand among them;
- Latin words are English where English is wanted, unless a word or letter occurs that English does not use: only
  then, and for every other target, is the detector asked;
- a language that the detector does not know owns every word of its script.
On sentences of manual pages in ten languages, spliced, shares are 99 % right (`tests/rewards/test_language_prose.py`).
A thought without words, all formulas or code, cannot be judged and gets full marks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise

from thinkery.core import Completion, Reward, Score, Task, rule
from thinkery.rewards import detector

SCRIPTS: dict[str, frozenset[str]] = {
    "zh": frozenset({"han"}),
    "ja": frozenset({"han", "kana"}),
    "ko": frozenset({"hangul"}),
    "ru": frozenset({"cyrillic"}),
    "uk": frozenset({"cyrillic"}),
    "bg": frozenset({"cyrillic"}),
    "sr": frozenset({"cyrillic"}),
    "el": frozenset({"greek"}),
    "ar": frozenset({"arabic"}),
    "fa": frozenset({"arabic"}),
    "ur": frozenset({"arabic"}),
    "he": frozenset({"hebrew"}),
    "hi": frozenset({"devanagari"}),
    "mr": frozenset({"devanagari"}),
    "ne": frozenset({"devanagari"}),
    "th": frozenset({"thai"}),
}
_LATIN = frozenset({"latin"})
_NEUTRAL = re.compile(
    r"```.*?(?:```|$)|`[^`\n]*`|\$\$.+?\$\$|(?<!\\)\$(?=\S)[^$\n]+(?<![\\\s])\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\]"
    r"|\[asy\].*?(?:\[/asy\]|$)|\\[A-Za-z]+|</?\w+>",
    re.DOTALL,
)
_ACCENTS = "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_ACCENTED = re.compile(f"[{_ACCENTS}]")
_LETTERS = f"A-Za-z{_ACCENTS}"
_NO_CODE_BEFORE = rf"(?<![{_LETTERS}0-9_/@\\])(?<!--)(?<![a-z]\.(?=[a-z]))"
_NO_CODE_AFTER = r"(?![0-9_(/@]|\.[a-z])"
_WORD = re.compile(
    r"(?P<han>[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
    r"|(?P<kana>[\u3041-\u3096\u30a1-\u30fa])"
    r"|(?P<hangul>[\uac00-\ud7a3])"
    rf"|(?P<latin>{_NO_CODE_BEFORE}[{_LETTERS}](?:['’]?[{_LETTERS}])++{_NO_CODE_AFTER})"
    r"|(?P<cyrillic>[\u0400-\u052f]{2,})"
    r"|(?P<greek>[\u0370-\u03ff\u1f00-\u1fff]{2,})"
    r"|(?P<arabic>[\u0620-\u065f\u066e-\u06d3\u06fa-\u06ff]{2,})"
    r"|(?P<hebrew>[\u05d0-\u05ea]{2,})"
    r"|(?P<devanagari>[\u0900-\u0963\u0970-\u097f]{2,})"
    r"|(?P<thai>[\u0e01-\u0e4e]{2,})"
)
_SENTENCE_END = re.compile(r"[.!?:;\n。！？：；]")
_LONGEST_NAME = 2
_FREQUENT = {
    "de": "der das und ist nicht ein eine zu den dem mit von auf wird werden sich wenn wir dann oder auch",
    "fr": "le la les des et est une un du que pour dans qui sur pas donc nous avec alors",
    "es": "el los las del por con como entonces pero es se para",
    "it": "il di che sono della allora quindi abbiamo",
    "pt": "um uma os em ao com mas isso temos",
    "nl": "het een van dat niet voor wij dus zijn",
    "pl": "jest nie na lub przez dla jak",
    "sv": "och att det som inte av jag",
    "da": "og ikke til jeg er",
    "fi": "ja ei joka mutta",
    "cs": "je pro nebo",
    "hu": "az egy hogy nem",
    "ro": "este cu nu sunt pentru",
    "tr": "bir ve bu",
    "id": "yang dan untuk dengan ini",
}
"""Words that sentences of these languages hardly do without and English ones do; Vietnamese has its letters."""
_NOT_ENGLISH = frozenset(" ".join(_FREQUENT.values()).split())


@rule
def consistency(task: Task, completion: Completion) -> Score:
    """The share of the thought's words in the language of the question; without a thought, of the whole text's."""
    return _consistency(completion, task.language or language_of(task.prompt))


def consistency_in(target: str) -> Reward:
    """`consistency` with one language for all tasks, whatever they are asked in."""
    return rule(lambda task, completion: _consistency(completion, target))


def _consistency(completion: Completion, target: str | None) -> Score:
    text = completion.text if completion.thought is None else completion.thought
    share = None if target is None else language_share(text, target)
    return Score(1.0, "no words to judge") if share is None else Score(share, f"{share:.0%} of the words are {target}")


def language_share(text: str, target: str) -> float | None:
    """Words in language `target` / all words, from 0 to 1; None for a text without words."""
    words = _words(text)
    return _count_in(words, target.partition("-")[0].lower()) / len(words) if words else None


def language_of(text: str) -> str | None:
    """The language most of a text's words are in; None without words."""
    words = _words(text)
    scripts = Counter(word.lastgroup for word in words)
    if not words:
        return None
    if scripts["kana"]:
        return "ja"
    script = scripts.most_common(1)[0][0] or ""
    own = [word for word in words if word.lastgroup == script]
    if script == "latin" and _is_english(own):
        return "en"
    if script in detector.RIVALS:
        return detector.likeliest([word[0] for word in own], script)
    return next(language for language, owned in SCRIPTS.items() if script in owned)


def _words(text: str) -> list[re.Match[str]]:
    """The words that count, each in a group named after its script."""
    words = list(_WORD.finditer(_NEUTRAL.sub(" ", text)))
    return words if len({word.lastgroup for word in words}) < 2 else _without_names(words)


def _without_names(words: list[re.Match[str]]) -> list[re.Match[str]]:
    """All but one or two capitalised Latin words that stand inside a sentence of another script."""
    kept: list[re.Match[str]] = []
    before: re.Match[str] | None = None
    for script, group in groupby(words, lambda word: word.lastgroup):
        run = list(group)
        named = script == "latin" and len(run) <= _LONGEST_NAME and all(word[0][0].isupper() for word in run)
        if not (named and before and not _parted(before, run[0])):
            kept += run
        before = run[-1]
    return kept


def _count_in(words: Sequence[re.Match[str]], language: str) -> int:
    """How many of the words are in a language."""
    if language in ("zh", "ja"):
        return _count_chinese_or_japanese(words, language)
    scripts = SCRIPTS.get(language, _LATIN)
    own = [word for word in words if word.lastgroup in scripts]
    script = next(iter(scripts))
    decided = not own or script not in detector.RIVALS or (language == "en" and _is_english(own))
    if decided or not detector.knows(language):
        return len(own)
    return sum(detector.tell_apart([word[0] for word in own], _starts(own), script, language))


def _count_chinese_or_japanese(words: Sequence[re.Match[str]], language: str) -> int:
    """How many of the words are Chinese, or Japanese; without any kana all are Chinese where that is wanted."""
    own = [word for word in words if word.lastgroup in ("han", "kana")]
    kana = [word.lastgroup == "kana" for word in own]
    if language == "zh" and not any(kana):
        return len(own)
    japanese = detector.is_japanese(kana, _starts(own), expected=language == "ja") if own else []
    return sum(one if language == "ja" else not one for one in japanese)


def _is_english(latin: Sequence[re.Match[str]]) -> bool:
    """Whether nothing speaks against English: no frequent word of another language, no letter beyond a to z."""
    words = [word[0] for word in latin]
    return _NOT_ENGLISH.isdisjoint(words) and not any(_ACCENTED.search(word) for word in words if not word.isascii())


def _starts(words: Sequence[re.Match[str]]) -> list[bool]:
    """For each word whether a sentence begins with it."""
    return [True, *(_parted(one, other) for one, other in pairwise(words))]


def _parted(one: re.Match[str], other: re.Match[str]) -> bool:
    """Whether a sentence ends between two words."""
    return bool(_SENTENCE_END.search(one.string, one.end(), other.start()))
