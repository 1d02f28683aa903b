"""Published data sets, read from the folder that THINKERY_DATA names; nothing of them is part of this package.

`train` splits may be learned from; `test` splits are for exams only, which `load_tasks` enforces.
The general prompts come only from files without AlpacaEval's instructions; oasst1_en_validation,
self_instruct_user_oriented and pandalm_testset_v1 hold hundreds of them and are left alone.
hh_harmless_base_test is one file for two purposes, split once and for all by a hash of the first turn (HARMLESS_SPLIT):
`general:harmless` and `preferences` read the half for learning only, `general:test` the half that safety is evaluated
with. As a file of its own it is refused for learning like every evaluation file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from thinkery.core import Message, Role, Task
from thinkery.errors import InputError
from thinkery.tasks.fields import Fields, final_value, last_boxed, to_task, with_choices
from thinkery.tasks.files import Place, read_rows

FUNCTION = "Write the function in Python, with the imports it needs, and end with the whole code in one fenced block."
MBPP_TEST = range(11, 511)
"""The ids of MBPP's test questions."""
MBPP_TRAIN = range(601, 975)
"""The ids of MBPP's training questions, of which the sanitized set, an evaluation set, has 120."""

HARMLESS_FILE = "preference/hh_harmless_base_test.jsonl.gz"
HARMLESS_SPLIT = (
    "a dialogue of hh_harmless_base_test is for learning when the last bit of BLAKE2b-64 of its first turn, in lower "
    "case and with single spaces, is 0, and for evaluation when it is 1"
)
"""The rule that `may_learn` applies, as datasets record it."""

EXAM_FILES = (
    "gsm8k/test.jsonl.gz",
    "math/math500_test.jsonl.gz",
    "aime/aime2024.jsonl",
    "mmlu/test.jsonl.gz",
    "frames/frames.jsonl.gz",
    "ifeval/input_data.jsonl.gz",
    "humaneval/HumanEval.jsonl.gz",
    "mbpp/mbpp.jsonl.gz",
    "mbpp/sanitized-mbpp.json.gz",
    "code/code_contests_test.jsonl.gz",
    "alpaca_eval2/baseline_gpt4_1106_preview.json.gz",
    "arena_hard/question_v0.1.jsonl.gz",
    "arena_hard/baseline_gpt-4-0314.jsonl.gz",
    HARMLESS_FILE,
)
"""Files that must never be trained on as they are; `general` takes the last one apart."""

NAME, AUTHOR = "Thinkery", "the people who ran this recipe"
"""Who a model says it is and who made it, in the self-descriptions that it learns."""

HARMLESS = {"set": "harmless"}
"""What marks a prompt to which the right answer is often a refusal."""

Preferred = tuple[Task, str, str]
"""A prompt, the answer that was preferred, and the other one."""


def data_root() -> Path | None:
    """The folder of public data: what the environment variable THINKERY_DATA names, None when it is unset."""
    value = os.environ.get("THINKERY_DATA")
    return Path(value) if value else None


def public_file(name: str) -> Path:
    """The path of a file of the public data; raises InputError naming it and the variable when it is not there."""
    root = data_root()
    hint = f"set THINKERY_DATA to the folder that holds {name}"
    if root is None:
        raise InputError("public data is needed", where=name, found="THINKERY_DATA is not set", hint=hint)
    if not (root / name).is_file():
        raise InputError("no such file", where=str(root / name), found=f"THINKERY_DATA={root}", hint=hint)
    return root / name


def is_exam_file(path: Path) -> bool:
    """Whether a path is one of the evaluation files of the public data."""
    root = data_root()
    return root is not None and any(path.resolve() == (root / name).resolve() for name in EXAM_FILES)


def gsm8k(split: str, rows: Iterable[Place] | None = None) -> Iterator[Task]:
    """Grade-school word problems; gold is what follows `####`. `steps` has train's single calculations instead.

    Here and below, `rows` of the same shape take the place of those of THINKERY_DATA.
    """
    if split == "steps":
        yield from _gsm8k_steps()
        return
    files = {"train": "train.jsonl.gz", "test": "test.jsonl.gz"}
    for i, (_, row) in enumerate(rows or _rows("gsm8k", files, split)):
        yield _math("gsm8k", split, i, row["question"], final_value(row["answer"]))


def _gsm8k_steps() -> Iterator[Task]:
    """Every different sum, difference and product of two whole numbers that train's solutions mark as `<<6*4=24>>`.

    The easiest problems there are, of difficulty 0: what a very small model can already do now and then.
    """
    seen: set[str] = set()
    for _, row in _rows("gsm8k", {"steps": "train.jsonl.gz"}, "steps"):
        for a, sign, b in re.findall(r"<<(\d{1,4})([-+*])(\d{1,4})=\d+>>", row["answer"]):
            question = f"What is {a} {sign} {b}?"
            if question not in seen:
                seen.add(question)
                value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
                yield _math("gsm8k", "steps", len(seen) - 1, question, str(value), {"difficulty": 0})


def math(split: str) -> Iterator[Task]:
    """Competition problems of MATH: `train` has answers, `solutions` worked solutions in `info`; no split has MATH-500.

    Two of the 7,474 published answers are missing: their gold is None, which the check of golds drops and counts.
    """
    files = {"train": "train_answers.jsonl.gz", "solutions": "train_solutions_4500.jsonl.gz"}
    for i, (_, row) in enumerate(_rows("math", files, split)):
        solution = row.get("solution", "")
        gold = last_boxed(solution) if solution else row["answer"]
        info = {"subject": row["type"], "difficulty": _level(row.get("level", row.get("difficulty")))}
        yield _math("math", split, i, row["problem"], gold, info | ({"solution": solution} if solution else {}))


def math500(split: str, rows: Iterable[Place] | None = None) -> Iterator[Task]:
    """MATH-500, an exam; its five levels are the difficulty."""
    for i, (_, row) in enumerate(rows or _rows("math", {"test": "math500_test.jsonl.gz"}, split)):
        info = {"subject": row["subject"], "difficulty": _level(row["level"])}
        yield _math("math500", split, i, row["problem"], row["answer"], info)


def aime2024(split: str, rows: Iterable[Place] | None = None) -> Iterator[Task]:
    """The 30 problems of AIME 2024, an exam."""
    for i, (_, row) in enumerate(rows or _rows("aime", {"test": "aime2024.jsonl"}, split)):
        yield _math("aime2024", split, i, row["problem"], row["answer"])


def mmlu(split: str, rows: Iterable[Place] | None = None) -> Iterator[Task]:
    """Multiple choice over 57 subjects: `dev` and `validation` may be learned from, `test` is the exam."""
    files = {"dev": "dev.jsonl.gz", "validation": "val.jsonl.gz", "test": "test.jsonl.gz"}
    for i, (_, row) in enumerate(rows or _rows("mmlu", files, split)):
        options = [row[letter] for letter in "ABCD"]
        info = {"subject": row["subject"], "choices": options}
        question = with_choices(row["question"], options)
        yield Task(f"mmlu/{split}-{i}", question, "choice", row["answer"], "en", "mmlu", info=info)


def mbpp(split: str, rows: Iterable[Place] | None = None) -> Iterator[Task]:
    """Short functions; the assertions are shown, since only they name the function. `test` has 500, `train` 251.

    `train` is put in words of its own: in those of `test` every task would share ten words with every exam, and be
    dropped.
    """
    if split == "train":
        chosen = mbpp_train(rows)
    else:
        files = {"train": "mbpp.jsonl.gz", "test": "mbpp.jsonl.gz"}
        found = rows or _rows("mbpp", files, split)
        chosen = (place for place in found if place[1]["task_id"] in MBPP_TEST)
    for _, row in chosen:
        yield _function_task(row, split)


def mbpp_train(rows: Iterable[Place] | None = None) -> Iterator[Place]:
    """The rows of MBPP that may be trained on: ids 601 to 974 that the sanitized set left out.

    Three of these ask for a function in the very words of an evaluation question, and are left out as well.
    """
    every = [*(rows or read_rows(public_file("mbpp/mbpp.jsonl.gz")))]
    sanitized = {row["task_id"]: row["prompt"] for _, row in read_rows(public_file("mbpp/sanitized-mbpp.json.gz"))}
    tested = [row["text"] for _, row in every if row["task_id"] in MBPP_TEST]
    evaluated = {_words(text) for text in (*tested, *sanitized.values())}
    for where, row in every:
        if row["task_id"] in MBPP_TRAIN and row["task_id"] not in sanitized and _words(row["text"]) not in evaluated:
            yield where, row


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _function_task(row: Mapping[str, Any], split: str) -> Task:
    tests = "\n".join(row["test_list"])
    if split == "train":
        prompt = f"{row['text']}\nThese must hold:\n\n{tests}\n\nAnswer with one fenced block of Python."
    else:
        prompt = f"{row['text']}\nYour code should pass these tests:\n\n{tests}\n\n{FUNCTION}"
    info = {"test": f"{row['test_setup_code']}\n{tests}"}
    return Task(f"mbpp/{row['task_id']}", prompt, "code", None, "en", "mbpp", info=info)


def general(split: str) -> Iterator[Task]:
    """Prompts without a rule: `train` asks for help, `identity` who the model is; `harmless` and `test` are offensive.

    These two hold first turns of red-team dialogues: `harmless` of the half that may be learned from, `test` each
    different one of the half for evaluation. They were written to provoke; many are harmless taken alone.
    """
    if split == "harmless":
        yield from (task for task in _harmless() if may_learn(task.prompt))
    elif split == "test":
        yield from {task.prompt: task for task in _harmless() if not may_learn(task.prompt)}.values()
    elif split == "identity":
        yield from _identity()
    elif split == "train":
        yield from _seed_tasks()
        yield from _dialogues()
        yield from _short_tasks()
    else:
        raise _no_split("general", split, ("train", "identity", "harmless", "test"))


def _seed_tasks() -> Iterator[Task]:
    fields = Fields(question="instruction", context="instances.0.input", answer="instances.0.output", language="=en")
    for i, (where, row) in enumerate(read_rows(public_file("sft/self_instruct_seed_tasks.jsonl.gz"))):
        yield to_task(row, fields, id=f"general/seed-{i}", where=where, source="general")


def _dialogues() -> Iterator[Task]:
    fields = Fields(messages="conversations", answer="chosen.value", language="=en")
    for i, (where, row) in enumerate(read_rows(public_file("preference/dpo_en_demo.json.gz"))):
        yield to_task(row, fields, id=f"general/dialogue-{i}", where=where, source="general")


def _short_tasks() -> Iterator[Task]:
    fields = Fields(question="prompt", answer="completion", language="=en")
    for i, (where, row) in enumerate(read_rows(public_file("sft/t0_sample.jsonl.gz"))):
        yield to_task(row, fields, id=f"general/short-{i}", where=where, source="general")


def _identity() -> Iterator[Task]:
    fields = Fields(question="instruction", context="input", answer="output", language="=en")
    for i, (where, row) in enumerate(read_rows(public_file("sft/identity.json"))):
        row = {key: text.replace("{{name}}", NAME).replace("{{author}}", AUTHOR) for key, text in row.items()}
        yield to_task(row, fields, id=f"general/identity-{i}", where=where, source="general")


def _harmless() -> Iterator[Task]:
    """The first turns of all dialogues, of both halves."""
    for i, (_, row) in enumerate(read_rows(public_file(HARMLESS_FILE))):
        first, *_ = _dialogue(row["chosen"])
        if first.content:
            yield Task(f"general/harmless-{i}", first.content, language="en", source="general", info=HARMLESS)


def preferences(name: Literal["dpo-demo", "hh-harmless"]) -> Iterator[Preferred]:
    """Published choices between two answers: `dpo-demo` by helpfulness, `hh-harmless` by harm (offensive text)."""
    return _dpo_demo() if name == "dpo-demo" else _hh_harmless()


def may_learn(first: str) -> bool:
    """Whether a red-team dialogue that begins so is for learning, not for evaluation (HARMLESS_SPLIT)."""
    return blake2b(" ".join(first.split()).lower().encode(), digest_size=8).digest()[-1] % 2 == 0


def kept_for_exams(task: Task) -> bool:
    """Whether a task begins with a prompt of the half for evaluation, wherever its row was read."""
    return task.source == "general" and task.info.get("set") == "harmless" and not may_learn(task.messages[0].content)


def _dpo_demo() -> Iterator[Preferred]:
    rows = read_rows(public_file("preference/dpo_en_demo.json.gz"))
    for task, (_, row) in zip(_dialogues(), rows, strict=True):
        yield task, row["chosen"]["value"], row["rejected"]["value"]


def _hh_harmless() -> Iterator[Preferred]:
    for i, (_, row) in enumerate(read_rows(public_file(HARMLESS_FILE))):
        *before, chosen = _dialogue(row["chosen"])
        *also, rejected = _dialogue(row["rejected"])
        whole = before == also and before[0].content and chosen.content and rejected.content
        if whole and may_learn(before[0].content):
            *history, asked = before
            id = f"general/harmless-{i}"
            task = Task(id, asked.content, language="en", source="general", history=tuple(history), info=HARMLESS)
            yield task, chosen.content, rejected.content


def _dialogue(text: str) -> list[Message]:
    """The turns of Anthropic's transcripts, `\\n\\nHuman: … \\n\\nAssistant: …`."""
    turns = re.split(r"\n\n(Human|Assistant):", text)[1:]
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    return [Message(roles[who], said.strip()) for who, said in zip(turns[::2], turns[1::2], strict=True)]


def _rows(folder: str, files: Mapping[str, str], split: str) -> Iterator[Place]:
    if split not in files:
        raise _no_split(folder, split, tuple(files))
    return read_rows(public_file(f"{folder}/{files[split]}"))


def _no_split(name: str, split: str, splits: tuple[str, ...]) -> InputError:
    return InputError(f"{name} has no such split", found=split, hint=f"split = one of {', '.join(splits)}")


def _math(source: str, split: str, i: int, question: str, gold: str | None, info: Mapping[str, Any] = {}) -> Task:
    return Task(f"{source}/{split}-{i}", question, "math", gold, "en", source, info=info)


def _level(value: Any) -> int | None:
    """`Level 3`, 3.0 and 3 are all 3; a level that is not known is None."""
    digits = "".join(c for c in str(value).split(".")[0] if c.isdigit())
    return int(digits) if digits else None
