"""From a row of any shape to a `Task`: which field is the question, which the answer, and how it is judged.

fields = infer_fields(rows)            # looks at names and values; a person may correct the guess
task = to_task(row, fields, id="mine/1", where="mine.jsonl:1")
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from thinkery.config import Config
from thinkery.core import Message, Role, Task
from thinkery.errors import InputError

KINDS = ("math", "choice", "exact", "general")
_THOUSANDS = re.compile(r"[^\d,]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^\d,]*")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Names by which published data calls its parts, the most telling first.
QUESTIONS = ("question", "problem", "prompt", "instruction", "query", "text", "input")
ANSWERS = (
    "gold",
    "ground_truth",
    "final_answer",
    "expected_answer",
    "answer",
    "answerkey",
    "label",
    "target",
    "solution",
    "output",
    "response",
    "completion",
)
CONTEXTS = ("input", "context", "passage")
CHOICES = ("choices", "options")
CONVERSATIONS = ("messages", "conversations", "conversation", "prompt")
IDS = ("id", "uid", "unique_id", "task_id")
LANGUAGES = ("language", "lang")

ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


class Fields(Config):
    """Which field of a row is what; dots go inside (`data.question`, `instances.0.input`), empty means absent."""

    question: str = ""
    """The field that is asked."""

    context: str = ""
    """A field put after the question where it is not empty, such as Alpaca's `input` or a passage it is about."""

    messages: str = ""
    """The field with a chat: the last user turn is the question, and an assistant turn after it the answer."""

    answer: str = ""
    """The field with the reference answer; `#### 72` and the last `\\boxed{72}` are taken out of a worked solution."""

    choices: tuple[str, ...] = ()
    """Multiple choice: one field with a list of options, or one field per option."""

    kind: str = ""
    """The field that names the way of judging, or `=math`, `=choice`, `=exact`, `=general` for every row."""

    language: str = ""
    """The field with the language tag of the question, or such as `=en` for every row."""

    id: str = ""
    """The field that identifies a row; without it the line number does."""


def infer_fields(rows: Sequence[Mapping[str, Any]]) -> Fields:
    """The mapping that names and values of these rows suggest; `question` and `messages` stay empty when none does."""
    values = _columns(rows)
    chat = _named(values, CONVERSATIONS, _is_chat)
    question = "" if chat else _named(values, QUESTIONS, _is_text)
    answer = _named(values, ANSWERS, _is_scalar, besides=(question,))
    choices = _choices(values)
    fields = Fields(
        question=question,
        messages=chat,
        context=_context(rows, values, question, answer),
        answer=answer,
        choices=choices,
        id=_named(values, IDS, _is_scalar),
    )
    kind = _named(values, ("kind",), lambda value: value in KINDS) or "=" + likely_kind(rows, fields)
    language = _named(values, LANGUAGES, is_tag) or _language([_question(row, fields) for row in rows])
    return fields.model_copy(update={"kind": kind, "language": language})


def to_task(row: Mapping[str, Any], fields: Fields, *, id: str, where: str, source: str = "") -> Task:
    """One row as a task; raises InputError, naming the fields there are, when what the kind needs is missing."""
    turns = _turns(row, fields, where)
    question = turns[-1].content
    if not question.strip():
        _missing(row, fields.question or fields.messages or "question", where)
    kind = _value(row, fields.kind) or "general"
    language = _value(row, fields.language) or None
    options, labels = _options(row, fields, where)
    raw = _raw_answer(row, fields)
    if raw is None and kind != "general":
        hint = f'every {kind} task needs one; drop the row or set kind = "general"'
        _missing(row, fields.answer or "answer", where, hint)
    gold = None if raw is None else _gold(raw, kind, options, labels, where)
    if len(options) > len(LETTERS):
        hint = f"a choice has a letter, of which there are {len(LETTERS)}"
        raise InputError(f"there are {len(options)} choices", where=where, hint=hint)
    if options:
        question = with_choices(question, options)
    info = {"choices": list(options)} if options else {}
    return Task(id, question, str(kind), gold, language and str(language), source, tuple(turns[:-1]), info)


def with_choices(question: str, options: Sequence[str]) -> str:
    """The question with its lettered options below."""
    return "\n".join([question.rstrip(), *(f"{LETTERS[i]}. {option}" for i, option in enumerate(options))])


def final_value(solution: str) -> str | None:
    """What a worked solution ends in: after the last `####`, else inside the last `\\boxed{}`; None without either."""
    if "####" in solution:
        value = solution.rsplit("####", 1)[1].strip()
        return (value.replace(",", "") if _THOUSANDS.fullmatch(value) else value) or None
    return last_boxed(solution)


def last_boxed(text: str) -> str | None:
    """The inside of the last `\\boxed{…}` with its braces balanced, None where there is none or it never closes."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for end in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : end].strip()
    return None


def lookup(row: Any, path: str) -> Any:
    """The value at a dotted path, through objects by name and lists by number; None when there is none, or NaN."""
    for part in (path,) if isinstance(row, Mapping) and path in row else path.split("."):
        if isinstance(row, Mapping):
            row = row.get(part)
        elif isinstance(row, list) and part.isdigit() and int(part) < len(row):
            row = row[int(part)]
        else:
            return None
    return None if isinstance(row, float) and math.isnan(row) else row


def row_id(row: Mapping[str, Any], fields: Fields, number: int) -> str:
    """What identifies a row inside its file: its own id, else its number."""
    own = lookup(row, fields.id) if fields.id else None
    return str(number if own is None else own)


# ---- reading one row


def _turns(row: Mapping[str, Any], fields: Fields, where: str) -> list[Message]:
    """The conversation up to and with the question."""
    if not fields.messages:
        return [Message("user", _question(row, fields))]
    chat = lookup(row, fields.messages)
    if not _is_turns(chat):
        _missing(row, fields.messages, where, "a chat is a list of {role, content}")
    turns = [_message(turn, where) for turn in chat]
    asked = [i for i, turn in enumerate(turns) if turn.role == "user"]
    if not asked:
        raise InputError("no user turn", where=where, hint="drop the row: there is nothing to ask")
    return turns[: asked[-1] + 1]


def _message(turn: Mapping[str, Any], where: str) -> Message:
    role = str(turn.get("role", turn.get("from")))
    if role not in ROLES:
        hint = f"drop the row: a turn's role is one of {', '.join(ROLES)}"
        raise InputError("unknown role", where=where, found=role, hint=hint)
    return Message(ROLES[role], _said(turn))


def _said(turn: Mapping[str, Any]) -> str:
    """The text of a turn, whose content may be a list of parts {"type": "text", "text": …}."""
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        content = "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return str(content or "")


def _question(row: Mapping[str, Any], fields: Fields) -> str:
    if fields.messages:
        chat = lookup(row, fields.messages) or []
        return next((_said(t) for t in reversed(chat) if _speaker(t) == "user"), "")
    parts = [lookup(row, path) for path in (fields.question, fields.context) if path]
    return "\n\n".join(str(part) for part in parts if part not in (None, ""))


def _raw_answer(row: Mapping[str, Any], fields: Fields) -> Any:
    value = lookup(row, fields.answer) if fields.answer else None
    if value is None and fields.messages:
        last = (lookup(row, fields.messages) or [{}])[-1]
        value = _said(last) if _speaker(last) == "assistant" else None
    return None if value == "" else value


def _gold(raw: Any, kind: str, options: Sequence[str], labels: Sequence[str], where: str) -> str:
    text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    if kind == "math":
        return final_value(text) or text.strip()
    if kind == "choice" and options:
        return _letter(raw, options, labels, where)
    return text.strip()


def _letter(raw: Any, options: Sequence[str], labels: Sequence[str], where: str) -> str:
    """The letter of the right option, given as a label (also `b` or `(B)`), a number from 0, or the option itself."""
    text = str(raw).strip()
    if isinstance(raw, float) and raw.is_integer() and text not in options:
        text = str(int(raw))
    if text in labels:
        return LETTERS[labels.index(text)]
    if text in options and (isinstance(raw, str) or not text.isdigit()):
        return LETTERS[options.index(text)]  # "2" among "2", "4", "6" is itself
    if text.isdecimal() and int(text) < len(options):
        return LETTERS[int(text)]
    bare = [label.strip("().").casefold() for label in labels]
    if (given := text.strip("().").casefold()) in bare:
        return LETTERS[bare.index(given)]
    hint = "give its letter, its number counted from 0, or the option itself"
    raise InputError(f"the answer is none of the {len(options)} choices", where=where, found=text[:60], hint=hint)


def _options(row: Mapping[str, Any], fields: Fields, where: str) -> tuple[list[str], list[str]]:
    """The options and what the data calls them; letters unless it says otherwise."""
    if len(fields.choices) == 1:
        value = lookup(row, fields.choices[0])
        if isinstance(value, Mapping) and "text" in value:
            return [str(v) for v in value["text"]], [str(v) for v in value.get("label", LETTERS)]
        if isinstance(value, Mapping):
            return [str(v) for v in value.values()], [str(k) for k in value]
        listed = value or []
    else:
        listed = [v for path in fields.choices if (v := lookup(row, path)) is not None]
    pairs = [_option(one, LETTERS[i : i + 1], where) for i, one in enumerate(listed)]
    return [option for option, _ in pairs], [label for _, label in pairs]


def _option(value: Any, letter: str, where: str) -> tuple[str, str]:
    """An option and its label, which an object {"label": "A", "text": …} names itself."""
    if not isinstance(value, Mapping):
        return str(value), letter
    text = next((value[name] for name in ("text", "value", "content") if value.get(name) is not None), None)
    if text is None:
        hint = "an option that is an object has its text under text, value or content, and may have a label"
        raise InputError("a choice without a text", where=where, found=", ".join(value), hint=hint)
    return str(text), str(value.get("label", value.get("key", letter)))


def _value(row: Mapping[str, Any], field: str) -> Any:
    return field[1:] if field.startswith("=") else (lookup(row, field) if field else None)


def _missing(row: Mapping[str, Any], name: str, where: str, hint: str = "") -> None:
    fields = ", ".join(_flat(row)) or "nothing"
    raise InputError(
        f'no "{name}"', where=where, found=f"the fields {fields}", hint=hint or "name the right one under `fields`"
    )


# ---- guessing from many rows


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in row.items():
        if isinstance(value, Mapping) and not _lettered(value):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _lettered(value: Mapping[str, Any]) -> bool:
    return ("text" in value and "label" in value) or (bool(value) and all(key in LETTERS for key in value))


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for path in _flat(row):
            columns.setdefault(path, []).append(lookup(row, path))
    return {path: values for path, values in columns.items() if len(values) * 2 > len(rows)}


def _named(columns: Mapping[str, list[Any]], names: Sequence[str], fits, besides: Sequence[str] = ()) -> str:
    """The first column, by the order of `names`, whose values mostly fit; nulls say nothing."""
    for name in names:
        for path, values in columns.items():
            named = path.lower().rsplit(".", 1)[-1] == name and path not in besides
            known = [value for value in values if value is not None]
            if named and sum(map(fits, known)) * 2 > len(known):
                return path
    return ""


def _context(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, list[Any]], question: str, answer: str) -> str:
    """The column beside the question that belongs to it, unless the question repeats what stands there."""
    beside = {path: values for path, values in columns.items() if _parent(path) == _parent(question)}
    path = _named(beside, CONTEXTS, lambda value: isinstance(value, str), (question, answer)) if question else ""
    given = [(str(told), str(lookup(row, question))) for row in rows if path and (told := lookup(row, path))]
    return "" if given and all(told in asked for told, asked in given) else path


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _choices(columns: Mapping[str, list[Any]]) -> tuple[str, ...]:
    listed = _named(columns, CHOICES, lambda value: isinstance(value, list | Mapping) and len(value) > 1)
    if listed:
        return (listed,)
    lettered = [letter for letter in LETTERS[:10] if letter in columns]
    return tuple(lettered) if lettered[:2] == ["A", "B"] else ()


def likely_kind(rows: Sequence[Mapping[str, Any]], fields: Fields) -> str:
    """The kind by which the answers of these rows look as if they should be judged, one of `KINDS`."""
    answers = [str(raw).strip() for row in rows if (raw := _raw_answer(row, fields)) is not None]
    if len(answers) * 2 < len(rows) or not answers:
        return "general"
    if fields.choices or all(re.fullmatch(r"\(?[A-E]\)?", answer) for answer in answers):
        return "choice"
    latex = sum(bool(_LATEX.search(_question(row, fields))) for row in rows) * 2 > len(rows)
    if sum(_is_math(answer, latex) for answer in answers) >= (0.7 if latex else 0.9) * len(answers):
        return "math"
    return "exact" if median(map(len, answers)) <= 40 and not any("\n" in a for a in answers) else "general"


# Mathematics in a question, `$x$` or `\frac`; "$5 and $7" are prices.
_LATEX = re.compile(r"\$[^\s$](?:[^$]*[^\s$])?\$(?!\d)|\\(?:[(\[]|[A-Za-z]{2})")
_DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{2,4}")
_NUMBER = re.compile(r"[-+]?\s*[$€£]?\s*\.?\d[\d.,/]*\s*%?")
_WORD_OR_UNIT = re.compile(r"[A-Za-z]{3}|\d(?:\s+[A-Za-z]|[A-Za-z]{2})")
_FORMULA = re.compile(r"(?=.*\d)(?!.*[a-z][a-z\d])[\da-z\s.,;+*/^=(){}\[\]-]+")
_TUPLE = re.compile(r"[(\[][^()\[\]]+,[^()\[\]]+[)\]]")


def _is_math(answer: str, latex: bool) -> bool:
    """Whether an answer is a number or a formula; where questions are in `latex`, letters and signs are one sooner.

    Read as mathematics, 2024-01-15 would be 2008 and 5 km no other than 5 m: dates and units are not.
    """
    if final_value(answer) is not None or "\\" in answer:
        return True
    if _DATE.fullmatch(answer) or _WORD_OR_UNIT.search(answer):
        return False
    if latex and re.search(r"[\d+*/^=-]", answer):
        return True
    return bool(_NUMBER.fullmatch(answer)) or _is_formula(answer)


def _is_formula(answer: str) -> bool:
    """Whether it is such as x^2 + 7x, (3, 5] or 6 - 5i; A1, B-2, 10-12 and 555-1234 are not."""
    if not _FORMULA.fullmatch(answer):
        return False
    signs = "[-+*/^=]" if re.search("[a-z]", answer) else "[+*^=]"
    return bool(_TUPLE.fullmatch(answer) or re.search(rf"[\w)\]}}]\s*{signs}\s*[\w(\[{{.-]", answer))


def _is_chat(value: Any) -> bool:
    return _is_turns(value) and all(_speaker(turn) for turn in value)


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _speaker(turn: Mapping[str, Any]) -> str:
    return ROLES.get(str(turn.get("role", turn.get("from"))), "")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""


def is_tag(value: Any) -> bool:
    """Whether it has the form of a language tag, such as en or zh-CN."""
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]+)*", value))


# Scripts that one living language mostly owns, and words that no English paragraph does without.
SCRIPTS = {"ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7af]", "zh": r"[\u4e00-\u9fff]"}
ENGLISH = r"\b(the|is|are|of|what|how|and|to|in|each|find|which)\b"


def _language(questions: Sequence[str]) -> str:
    """`=tag` when most questions are plainly in one language that can be told apart, else nothing."""
    for tag, pattern in {**SCRIPTS, "en": ENGLISH}.items():
        if sum(bool(re.search(pattern, question, re.IGNORECASE)) for question in questions) > 0.8 * len(questions):
            return f"={tag}"
    return ""
