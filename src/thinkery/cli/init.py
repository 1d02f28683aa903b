"""`thinkery init`: a commented recipe, either on one's own data and reward or as a copy of the embedded one.

    thinkery init --data my.jsonl --reward my.py:score --model PATH

Everything is tried before it is written: the data is read as tasks, the model's tokenizer is loaded, and the reward
judges the right answers and an empty one. Tasks that a run would drop are dropped here as well, and said.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from thinkery.cli import terminal
from thinkery.core import Completion, Task
from thinkery.errors import InputError, UsageError
from thinkery.pipeline.files import write_file

if TYPE_CHECKING:
    from thinkery.model.tokenizer import Tokenizer
    from thinkery.rewards.rubric import Rubric
    from thinkery.tasks.fields import Fields

TRIED = 16
"""Tasks on which the reward is tried."""
HELD_OUT = (0.1, 0.2, 0.3, 0.5)
"""Shares of the data for the exam, the first that leaves enough being taken."""
ENOUGH = 20


@dataclass(frozen=True, slots=True)
class Earned:
    """What the reward paid on the tried tasks, on average; `unpaid` right answers earned nothing."""

    gold: float
    empty: float
    tried: int
    unpaid: int


def arguments(parser: argparse.ArgumentParser) -> None:
    """One's own data, reward and model; nothing for a copy of the embedded recipe."""
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="tasks as .jsonl, .json or .parquet, in rows of any shape"
    )
    parser.add_argument("--reward", default="", metavar="FILE.py:NAME", help="a function (task, completion) -> float")
    parser.add_argument("--model", default="", metavar="MODEL", help="a folder, a .gguf file, smollm2 or a hub id")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    parser.add_argument("--yes", action="store_true", help="take what was inferred without asking")


def main(args: argparse.Namespace) -> None:
    """Write a recipe, and say how to run it."""
    if args.data is None:
        if args.reward or args.model:
            raise UsageError("--reward and --model belong to --data", hint="thinkery init --data my.jsonl --model PATH")
        path = write_new(args.out / "recipe.toml", copy_of_tiny())
    else:
        path = init_own(args)
    print(f"wrote {path}")
    print(f"  thinkery plan {path}\n  thinkery run {path}")


def init_own(args: argparse.Namespace) -> Path:
    """Read the data, try the reward and the model, and write the recipe."""
    from thinkery.model.locate import locate
    from thinkery.rewards.lint import check_gold
    from thinkery.stages.own import Verdict

    if not args.model:
        raise UsageError("which model shall learn?", hint="--model PATH, a hub id such as Qwen/Qwen3-0.6B, or smollm2")
    model = locate(args.model)
    context, chats = context_of(model), tokenizer_of(model).template is not None
    rows = read_some(args.data)
    fields = choose_fields(rows, ask=sys.stdin.isatty() and not args.yes)
    held_out, tasks = split_tasks(args.data, fields)
    tasks, dropped = check_gold(tasks)
    for reason, count in Counter(reason for _, reason in dropped).items():
        terminal.remark(f"{count} of the tasks dropped: {reason}")
    if not tasks:
        raise InputError("no task is left", where=str(args.data), hint="`thinkery data inspect` shows how it was read")
    judged = tasks if args.reward else with_rule(tasks)
    rubric = Verdict(reward=args.reward, bare=chats, format_weight=0).rubric()
    earned = try_reward(rubric, judged, args.reward or "the rule for the task's kind")
    tell(fields, tasks, earned)
    text = own_recipe(args, fields, held_out, completion_limit(context), chats)
    return write_new(args.out / f"{args.data.name.split('.')[0]}.toml", text)


def read_some(path: Path) -> list[dict]:
    """The first rows of the data."""
    from thinkery.tasks.files import read_rows

    return [row for _, row in itertools.islice(read_rows(path), 200)]


def choose_fields(rows: Sequence[dict], *, ask: bool) -> Fields:
    """The mapping that the rows suggest, corrected by a person where there is one."""
    from thinkery.tasks.fields import infer_fields

    fields = infer_fields(rows)
    if ask:
        fields = asked_fields(rows, fields)
    if not fields.question and not fields.messages:
        raise InputError(
            "no field looks like a question",
            found=", ".join(rows[0]),
            hint="name it question, or answer the questions of `thinkery init` on a terminal",
        )
    return fields


def asked_fields(rows: Sequence[dict], fields: Fields) -> Fields:
    """The mapping with a person's word on each part; the kind that is offered follows from the words before it."""
    from thinkery.tasks.fields import KINDS, Fields, is_tag, likely_kind, lookup

    def is_field(name: str) -> bool:
        return any(lookup(row, name) is not None for row in rows)

    def are_fields(names: str) -> bool:
        return all(map(is_field, listed(names)))

    terminal.remark(f"the first row: {json.dumps(rows[0], ensure_ascii=False)[:500]}\nEnter keeps what is in brackets.")
    given: dict[str, Any] = {}
    for name in ("messages", "answer") if fields.messages else ("question", "context", "answer"):
        given[name] = ask_for(name, getattr(fields, name), is_field)
    given["choices"] = listed(ask_for("choices", ",".join(fields.choices), are_fields))
    fields = Fields(**{**fields.model_dump(), **given})
    kind = "=" + likely_kind(rows, fields) if fields.kind.startswith("=") else fields.kind
    kind = ask_for("kind", kind, is_field, KINDS.__contains__, " or one of " + ", ".join(KINDS))
    language = ask_for("language", fields.language, is_field, is_tag, " or a tag such as en")
    return fields.model_copy(update={"kind": kind, "language": language})


def listed(names: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def ask_for(
    name: str,
    inferred: str,
    is_field: Callable[[str], bool],
    is_value: Callable[[str], bool] = lambda typed: False,
    values: str = "",
) -> str:
    """A person's word for one part of the mapping, asked for until it is one: a field, `=` and a value that all rows
    have, or "" for none, typed "-"."""
    while True:
        try:
            typed = input(f"{name} [{inferred or '-'}]: ").strip() or inferred
        except EOFError as error:
            raise UsageError(f"no {name} was given", hint="--yes takes what was inferred without asking") from error
        if typed in ("", "-"):
            return ""
        if is_field(typed):
            return typed
        if is_value(value := typed.removeprefix("=")):
            return f"={value}"
        terminal.remark(f"no row has {typed!r}; type the name of a field{values}")


def split_tasks(path: Path, fields: Fields) -> tuple[float, list[Task]]:
    """The share that is kept for the exam, and the tasks that are left to practise on."""
    from thinkery.tasks.sources import Source, load_tasks

    source = Source(source="jsonl", path=str(path), fields=fields)
    everything = different(load_tasks([source]))
    for share in HELD_OUT:
        tasks = load_tasks([source.model_copy(update={"held_out": share})])
        if tasks and everything - different(tasks) >= min(ENOUGH, 1 + everything // 20):
            return share, tasks
    raise InputError(
        "too few different tasks to keep some for an exam", where=str(path), found=str(everything), hint="add tasks"
    )


def different(tasks: Sequence[Task]) -> int:
    """How many tasks there are without repetitions."""
    return len({task.messages for task in tasks})


def with_rule(tasks: Sequence[Task]) -> list[Task]:
    """The tasks whose answers a rule can judge; UsageError when there are none."""
    from thinkery.rewards.accuracy import RULED

    ruled = [task for task in tasks if task.kind in RULED]
    if not ruled:
        found = "tasks of the kind " + ", ".join(sorted({task.kind for task in tasks}))
        raise UsageError("nothing judges these", found=found, hint="give --reward FILE.py:NAME")
    if others := len(tasks) - len(ruled):
        terminal.remark(f"nothing judges {others} of the tasks, so that nothing is learnt from them without --reward")
    return ruled


def try_reward(rubric: Rubric, tasks: Sequence[Task], name: str) -> Earned:
    """What right answers and empty ones earn; UsageError when the reward fails or pays no right answer."""
    tried = tasks[:TRIED]
    empty = scores(rubric, [(task, said(task, "")) for task in tried], name)
    with_gold = [task for task in tried if task.gold]
    gold = scores(rubric, [(task, said(task, task.gold or "")) for task in with_gold], name)
    if gold and not any(value > 0 for value in gold):
        example = said(with_gold[0], with_gold[0].gold or "")
        raise UsageError(
            f"{name} pays nothing for a right answer",
            where=f"task {with_gold[0].id}",
            found=f"completion.answer {example.answer!r}, gold {with_gold[0].gold!r}",
            hint="compare what the reward looks at with these; `answer` comes to it without its tags",
        )
    return Earned(fmean(gold) if gold else 0.0, fmean(empty), len(gold), sum(value <= 0 for value in gold))


def said(task: Task, answer: str) -> Completion:
    """A well-formed completion with this answer."""
    from thinkery.chat import split

    text = f"<think>\n{task.prompt}\n</think>\n<answer>{answer}</answer>"
    parts = split(text, opened=False)
    return Completion(text, thought=parts.thought, answer=parts.answer, closed=parts.closed)


def scores(rubric: Rubric, pairs: Sequence[tuple[Task, Completion]], name: str) -> list[float]:
    """The verdict on each pair; UsageError with the reason when it gives none."""
    values = []
    for (task, _), (record, _) in zip(pairs, rubric.judge(pairs), strict=True):
        score = record["accuracy"]
        if score.value is None:
            raise UsageError(
                f"{name} fails", where=f"task {task.id}", found=score.reason, hint="make it return a number"
            )
        values.append(score.value)
    return values


def tell(fields: Fields, tasks: Sequence[Task], earned: Earned) -> None:
    """Say what was understood of the data and what the reward pays."""
    mapping = ", ".join(f"{name} = {value}" for name, value in fields.model_dump(exclude_defaults=True).items())
    print(f"{len(tasks)} tasks to practise on; {mapping}")
    print(f"an empty answer earns {earned.empty:.3g} on average")
    if earned.tried:
        print(f"a right answer earns {earned.gold:.3g} on average of {earned.tried}, {earned.unpaid} of them nothing")
        if earned.empty >= earned.gold:
            print("warning: an empty answer earns as much as a right one; training will find that out")
    else:
        print("the data has no reference answers, so the reward could not be tried on right ones")


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder or .gguf file; InputError when it cannot be used."""
    from thinkery.model.gguf import read_tokenizer
    from thinkery.model.tokenizer import Tokenizer

    tokenizer = read_tokenizer(folder) if folder.suffix == ".gguf" else Tokenizer.load(folder)
    _ = tokenizer.eos_id
    return tokenizer


def context_of(folder: Path) -> int | None:
    """How many positions a model has; InputError when its folder cannot be used. None for a .gguf file."""
    from thinkery.model.hf import read_config

    return None if folder.suffix == ".gguf" else read_config(folder).get("max_position_embeddings")


def completion_limit(context: int | None) -> int:
    """Room for a completion: half of the context, at most 512 tokens to begin with."""
    return min(512, (context or 2048) // 2)


def own_recipe(args: argparse.Namespace, fields: Fields, held_out: float, longest: int, chats: bool) -> str:
    """The recipe as commented TOML; a model that `chats` is asked by its own template, which asks for no form."""
    source = {"source": "jsonl", "path": str(args.data.resolve()), "held_out": held_out}
    source["fields"] = fields.model_dump(mode="json", exclude_defaults=True)
    reward = ""
    if args.reward:
        file, _, name = args.reward.rpartition(":")
        reward = f"{Path(file).resolve()}:{name}"
    model = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
    return OWN.format(
        data=args.data.name,
        model=toml(model),
        exam=toml({**source, "split": "test", "limit": 200}),
        problems=toml(source),
        reward=toml(reward),
        longest=longest,
        form=FORM_OF_CHAT if chats else FORM_OF_BASE,
        template=toml("" if chats else "r1-zero"),
    )


def toml(value: object) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(v)}" for key, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are written as in JSON


def copy_of_tiny() -> str:
    """The embedded recipe with a head that says how to go on."""
    from thinkery.config import PRESETS

    head = "# A copy of the recipe that `thinkery run tiny` runs, to change as you like.\n"
    head += "# What a setting means: thinkery config explain KEY\n\n"
    return head + (PRESETS / "tiny.toml").read_text(encoding="utf-8")


def write_new(path: Path, text: str) -> Path:
    """Write a file that must not exist yet."""
    if path.exists():
        raise UsageError("there is a recipe already", where=str(path), hint="--out DIR, or delete it")
    write_file(path, text)
    return path


FORM_OF_BASE = "format_weight = 0.2  # beside it: <think>…</think> <answer>…</answer>, which the template asks for"
FORM_OF_CHAT = """\
bare = true        # without a reward of yours the last number, letter or line counts, wherever it stands
format_weight = 0  # 0.2 also pays for <think>…</think> <answer>…</answer>, which only "r1-zero" asks for"""

OWN = """\
# Practice on {data}, written by `thinkery init`.
#   what it needs:          thinkery plan THIS.toml
#   run it, or continue:    thinkery run THIS.toml
#   what a setting means:   thinkery config explain KEY THIS.toml
#   try another value:      thinkery run THIS.toml train.grpo.updates=200
recipe = "own"

[base]
model = {model}

# A share of the data, chosen by the words of all turns up to the question, is kept for the exam before and after.
[exam]
purpose = "exam"
sources = [{exam}]

[problems]
sources = [{problems}]
ngram = 0  # drop only exam questions themselves; 10 also drops what shares ten words in a row (the paper's rule)

# What says whether an answer is right: file.py:function, or "" for the rule of the task's kind.
[verdict]
reward = {reward}
{form}

# How it is asked: "" by its own chat template, for a chat model; "r1-zero" by the paper's prompt for a base model.
[train]
template = {template}

[train.grpo]
updates = 100
group_size = 8            # attempts at one question
questions_per_update = 8
minibatches = 1
max_tokens = [[0, {longest}]]   # the longest completion; raise it when `cut` is more than a few percent
checkpoint_every = 20
eval_every = 20           # updates between two looks at exam questions: an alarm rings when they get worse

[train.grpo.policy]
lr = 1e-5                 # the paper's 3e-6 is for hundreds of billions of parameters
micro_batch_tokens = 4096

[evaluate]
samples = 4
sampling = {{ max_tokens = {longest} }}
"""
