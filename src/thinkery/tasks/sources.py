"""Where tasks come from: each source is a function that yields `Task`s, listed by name in `SOURCES`.

    tasks = load_tasks([Source(source="gsm8k", limit=500)], seed=7)
    exam  = load_tasks([Source(source="gsm8k", split="test", limit=400)], seed=7, purpose="exam")

What is for exams is never trained on: the splits `test` and `held-out`, and every evaluation file of the public
data, are refused unless the purpose is an exam.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from thinkery.config import Config
from thinkery.core import Task
from thinkery.errors import ConfigError, InputError
from thinkery.pipeline.artifact import row_to_task
from thinkery.tasks import public
from thinkery.tasks.environments.gym import game_tasks
from thinkery.tasks.environments.puzzles import puzzle_tasks
from thinkery.tasks.environments.verifiers import taskset_tasks
from thinkery.tasks.fields import Fields, infer_fields, row_id, to_task
from thinkery.tasks.files import read_rows
from thinkery.tasks.mutants import mutants
from thinkery.tasks.outside import LOOK, hub_tasks
from thinkery.tasks.world import general as world_general
from thinkery.tasks.world import problems as world_problems
from thinkery.tasks.world import programs as world_programs
from thinkery.tasks.world.problems import LONGER, STEPS
from thinkery.tasks.world.programs import PROGRAM_KINDS, ProgramKind

Purpose = Literal["train", "exam"]
WorldKind = Literal["chain", "cups"]
WORLD_KINDS: tuple[WorldKind, ...] = ("chain", "cups")
TASK_ROW = {"id", "prompt", "kind", "gold", "language", "source", "history", "info"}
"""A row with all of these is a task already, as `task_to_row` writes it."""
EXAM_SPLITS = ("test", "held-out", "longer")
DIVIDED = frozenset({"world", "world-general", "jsonl", "reasoning-gym", "gym", "verifiers"})
"""The sources that are in two parts: what is trained on, and what is kept for exams."""


class Source(Config):
    """One source of tasks, and which part of it."""

    source: str
    """Where tasks come from: a name in `SOURCES`, such as world, jsonl, gsm8k or hub."""

    split: str = "train"
    """Which part; `test` (the world's own word is `held-out`) is for exams and never trained on, nor is the world's
    `longer`: problems with more steps than any to learn from."""

    limit: int | None = Field(default=None, ge=0)
    """At most so many tasks, drawn by the seed and kept in the source's order; None takes all there are."""

    kind: str = ""
    """jsonl: how answers are judged (math, choice, exact, general), where the data should not decide. world: the
    kinds of problem (chain,cups) or of program (code,fix), with commas."""

    levels: tuple[int, ...] = Field(default=(), json_schema_extra={"key": "when set"})
    """Only tasks of these levels of difficulty, of which math and math500 have 1 (easiest) to 5; empty takes all."""

    language: str = ""
    """Language tag of the questions, such as `en`, where the data does not say."""

    path: str = ""
    """jsonl: the file. hub: the data set. reasoning-gym: the puzzle. gym: `my_env.py:make`, or the id of an environment
    that Gymnasium knows. verifiers: the installed taskset."""

    subset: str = ""
    """hub: the configuration of the data set, where it has several."""

    settings: dict[str, Any] = {}
    """reasoning-gym, gym, verifiers: the environment's own settings, such as {max_digits = 1}."""

    fields: Fields | None = None
    """Which field of a row is what; inferred from the first rows when absent."""

    held_out: float = 0.0
    """jsonl: this share of the tasks, chosen by a hash of the question with all turns before it, is the split `test`
    and the rest is `train`."""

    suffix: str = ""
    """Text put after every question, such as the paper's "put your final answer within \\boxed{}" (v1 §3)."""


def load_tasks(sources: Iterable[Source], *, seed: int = 0, purpose: Purpose = "train") -> list[Task]:
    """The tasks of all sources in order, ids made unique; raises InputError for exams that are to be trained on."""
    tasks: list[Task] = []
    for cfg in sources:
        _check_split(cfg)
        if purpose == "train":
            _refuse_exams(cfg)
        made = _of_levels(list(_function(cfg)(cfg, seed)), cfg)
        if purpose == "train" and (kept := next(filter(public.kept_for_exams, made), None)):
            raise _not_for_training(f"{cfg.path or cfg.source}: {kept.id}")
        tasks.extend(_finish(task, cfg) for task in _draw(made, cfg.limit, seed))
    return list(unique_ids(tasks))


def unique_ids(tasks: Iterable[Task]) -> Iterator[Task]:
    """The same tasks; an id that was seen before is followed by `~2`, `~3`, …"""
    seen: set[str] = set()
    for task in tasks:
        id, copies = task.id, 1
        while id in seen:
            copies += 1
            id = f"{task.id}~{copies}"
        seen.add(id)
        yield replace(task, id=id)


def _check_split(cfg: Source) -> None:
    """Raise ConfigError where a source that knows two parts is asked for a third; published sets know their own."""
    if cfg.source in DIVIDED and cfg.split not in ("train", *EXAM_SPLITS):
        hint = f"split = one of train, {', '.join(EXAM_SPLITS)}"
        raise ConfigError(f"{cfg.source} has no such split", where="split", found=cfg.split, hint=hint)


def _refuse_exams(cfg: Source) -> None:
    exam_file = cfg.source == "jsonl" and public.is_exam_file(Path(cfg.path))
    if exam_file or cfg.split in EXAM_SPLITS or cfg.source in ("math500", "aime2024"):
        raise _not_for_training(cfg.path if exam_file else f"{cfg.source}:{cfg.split}")


def _not_for_training(where: str) -> InputError:
    hint = "train on another source or on split = train; this one may only be evaluated on"
    return InputError("an evaluation set cannot be trained on", where=where, hint=hint)


def _function(cfg: Source) -> Callable[[Source, int], Iterator[Task]]:
    if cfg.source not in SOURCES:
        hint = f"one of {', '.join(SOURCES)}"
        raise ConfigError("no such source of tasks", where="source", found=cfg.source, hint=hint)
    return SOURCES[cfg.source]


def _of_levels(tasks: list[Task], cfg: Source) -> list[Task]:
    """The tasks of the levels that are asked for; ConfigError where there are none."""
    if not cfg.levels:
        return tasks
    found = [task for task in tasks if task.info.get("difficulty") in cfg.levels]
    if not found:
        there = sorted({level for task in tasks if (level := task.info.get("difficulty")) is not None})
        hint = f"some of {', '.join(map(str, there))}" if there else "leave levels out: the source has none"
        raise ConfigError("no task is of these levels", where="levels", found=str(list(cfg.levels)), hint=hint)
    return found


def _draw(tasks: Sequence[Task], limit: int | None, seed: int) -> Sequence[Task]:
    """A sample without replacement in the order of the source, or everything."""
    if limit is None or limit >= len(tasks):
        return tasks
    return [tasks[i] for i in sorted(random.Random(f"draw/{seed}").sample(range(len(tasks)), limit))]


def _finish(task: Task, cfg: Source) -> Task:
    task = replace(task, language=task.language or cfg.language or None)
    if not cfg.suffix:
        return task
    return replace(task, prompt=f"{task.prompt}\n{cfg.suffix}", info={**task.info, "suffix": cfg.suffix})


# ---- the sources


def _world(cfg: Source, seed: int) -> Iterator[Task]:
    """Problems or programs of the embedded world; as many as `limit`."""
    wanted = cfg.kind.split(",") if cfg.kind else WORLD_KINDS
    programs: list[ProgramKind] = [kind for kind in PROGRAM_KINDS if kind in wanted]
    if len(programs) == len(wanted):
        return world_programs(_world_split(cfg), seed, _count(cfg), kinds=programs)
    kinds: list[WorldKind] = [kind for kind in WORLD_KINDS if kind in wanted]
    if len(kinds) < len(wanted):
        hint = f"some of {','.join(WORLD_KINDS)}, or some of {','.join(PROGRAM_KINDS)}"
        raise ConfigError("the world has no such kind", where="kind", found=cfg.kind, hint=hint)
    steps = LONGER if cfg.split == "longer" else STEPS
    return world_problems(_world_split(cfg), seed, _count(cfg), kinds=kinds, steps=steps)


def _world_general(cfg: Source, seed: int) -> Iterator[Task]:
    """General prompts of the embedded world; as many as `limit`."""
    return world_general(_world_split(cfg), seed, _count(cfg))


def _world_split(cfg: Source) -> Literal["train", "held-out"]:
    return "held-out" if cfg.split in EXAM_SPLITS else "train"


def _count(cfg: Source) -> int:
    if cfg.limit is None:
        raise ConfigError(
            f"{cfg.source} makes as many tasks as it is asked for", where="limit", hint="set limit = 1000"
        )
    return cfg.limit


def _jsonl(cfg: Source, seed: int) -> Iterator[Task]:
    """One's own data: a .jsonl, .json or .parquet file of rows of any shape, or what `thinkery data make` writes."""
    path = Path(_path(cfg, "your file"))
    if not 0 <= cfg.held_out < 1:
        raise ConfigError("not a share", where="held_out", found=str(cfg.held_out), hint="0.1 keeps a tenth for exams")
    for task in _file_tasks(cfg, path):
        if not cfg.held_out or (cfg.split in EXAM_SPLITS) == (_fraction(task) < cfg.held_out):
            yield task


def _file_tasks(cfg: Source, path: Path) -> Iterator[Task]:
    rows = read_rows(path)
    seen = list(itertools.islice(rows, LOOK))
    fields = cfg.fields or infer_fields([row for _, row in seen])
    fields = fields.model_copy(update={"kind": f"={cfg.kind}"}) if cfg.kind else fields
    for number, (where, row) in enumerate(itertools.chain(seen, rows), start=1):
        if row.keys() >= TASK_ROW:
            try:
                yield row_to_task(row)
            except (TypeError, ValueError) as error:
                hint = "as `thinkery data make` writes it"
                raise InputError(f"not a task: {error}", where=where, hint=hint) from error
        else:
            id = f"{path.name.split('.')[0]}/{row_id(row, fields, number)}"
            yield to_task(row, fields, id=id, where=where, source=path.name)


def _fraction(task: Task) -> float:
    """A number in [0, 1) that depends on the words of all turns alone, so that duplicates fall on one side."""
    text = " ".join(turn.content for turn in task.messages)
    digest = blake2b(" ".join(text.split()).lower().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _hub(cfg: Source, seed: int) -> Iterator[Task]:
    """A data set of the Hugging Face hub."""
    return hub_tasks(_path(cfg, "openai/gsm8k"), cfg.subset, cfg.split, cfg.fields)


def _puzzles(cfg: Source, seed: int) -> Iterator[Task]:
    """Puzzles of Reasoning Gym; as many as `limit`."""
    return puzzle_tasks(_path(cfg, "chain_sum"), cfg.split, seed, _count(cfg), cfg.settings)


def _gym(cfg: Source, seed: int) -> Iterator[Task]:
    """Episodes of an environment with reset and step; as many as `limit`."""
    return game_tasks(_path(cfg, "my_env.py:make"), cfg.split, seed, _count(cfg), cfg.settings)


def _verifiers(cfg: Source, seed: int) -> Iterator[Task]:
    """A taskset of the library `verifiers`, which may be endless: its first `limit`."""
    return taskset_tasks(_path(cfg, "gsm8k"), cfg.split, cfg.limit, cfg.settings)


def _path(cfg: Source, example: str) -> str:
    if not cfg.path:
        raise ConfigError(f"{cfg.source} needs a path", where="path", hint=f'path = "{example}"')
    return cfg.path


SOURCES: dict[str, Callable[[Source, int], Iterator[Task]]] = {
    "world": _world,
    "world-general": _world_general,
    "jsonl": _jsonl,
    "gsm8k": lambda cfg, seed: public.gsm8k(cfg.split),
    "math": lambda cfg, seed: public.math(cfg.split),
    "math500": lambda cfg, seed: public.math500(cfg.split),
    "aime2024": lambda cfg, seed: public.aime2024(cfg.split),
    "mmlu": lambda cfg, seed: public.mmlu(cfg.split),
    "mbpp": lambda cfg, seed: public.mbpp(cfg.split),
    "general": lambda cfg, seed: public.general(cfg.split),
    "mutants": lambda cfg, seed: mutants(seed, cfg.limit),
    "reasoning-gym": _puzzles,
    "gym": _gym,
    "verifiers": _verifiers,
    "hub": _hub,
}
"""Every source: from its settings and a seed to tasks."""
