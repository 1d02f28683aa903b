"""Which part of a completion is its final answer: the last <answer> tag, else the last \\boxed{}, after the thought.

Nothing inside a thought counts, nor anything at all while a thought is open. Only the *last* tag or box is read:
when it is empty or broken there is no answer, and an earlier one is not used in its place.
"""

from __future__ import annotations

import re
import unicodedata

from thinkery.core import Completion

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_AND = r"[)\]`*$.]*+(?:\s?[,;；/]\s?(?:(?:or|and)\s)?|\s(?:or|and)\s|\s?[或和]\s?)[(\[`*$]*+"
_END = r"[)\]`*$]*+(?:[.。]+(?:\s|$)|\s*?$)"
_OTHER_LETTER = rf"(?!(?:{_AND}\1)+{_END})(?:{_AND}[A-Z])+{_END}"
"""More letters up to the end of a sentence; what is said of them after that, as "A and C are wrong", is a remark."""
_STATED_LETTER = re.compile(
    r"(?:\b(?i:answer)(?:\s{1,9}is)?|答案[是为]?)\**+\s{0,9}+[:：]?\**+\s{0,9}+(?:(?i:option|choice)\s)?"
    rf"[*$`]*+[(\[]?([A-Z])(?=[).,:。*$`\];；]|\s*?$)(?!{_OTHER_LETTER})",
    re.MULTILINE,
)
_LETTER = re.compile(
    r"(?:(?:the\s+)?answer(?:\s+is)?\s*:?|答案是?\s*:?)?\s*\(?([A-Z])(?:\)?[.):](?:\s.*)?|\))?",
    re.IGNORECASE | re.DOTALL,
)
_LONE_LETTER = re.compile(r"(?<![\w'])\(?([A-Z])\)?(?![\w'])")
_STYLED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")


def final_answer(completion: Completion, kind: str = "math") -> str | None:
    """The answer a completion commits to, None where it gives none; a "choice" may also be stated as "Answer: B"."""
    if completion.thought is not None and not completion.closed:
        return None
    text = completion.answer
    if "<answer>" in text:
        inside, closed, _ = text.rpartition("<answer>")[2].partition("</answer>")
        return (last_box(inside) if _BOX.search(inside) else inside.strip() or None) if closed else None
    if _BOX.search(text):
        return last_box(text)
    if kind == "choice" and (stated := _STATED_LETTER.findall(_STYLED.sub(r"\1", text))):
        return stated[-1]
    return None


def bare_answer(completion: Completion, kind: str = "math") -> str | None:
    """`final_answer`, or what an untuned base model gives instead: its last number, last letter, or last line."""
    if completion.thought is not None and not completion.closed:
        return None
    if (answer := final_answer(completion, kind)) is not None:
        return answer
    if kind in ("math", "choice"):
        found = (_NUMBER if kind == "math" else _LONE_LETTER).findall(completion.answer)
    else:
        found = [line.strip() for line in completion.answer.splitlines() if line.strip()]
    return found[-1] if found else None


def last_box(text: str) -> str | None:
    """The content of the last \\boxed{}, braces balanced; None when it is empty or never ends."""
    start = [match.end() for match in _BOX.finditer(text)][-1:]
    if not start:
        return None
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start[0]):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start[0] : match.start()].strip() or None
    return None


def letter(text: str) -> str | None:
    """The letter an answer consists of, as in "B", "(b)", "B. Paris", "Answer: B"; None for anything else."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", unicodedata.normalize("NFKC", text))
    found = _LETTER.fullmatch(text.strip(" \t\n*$"))
    return found[1].upper() if found else None


def plain(text: str) -> str:
    """A text without what does not matter when answers are compared: case, width, white space, a final stop."""
    text = _STYLED.sub(r"\1", text).strip().strip("*$")
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。! ")
