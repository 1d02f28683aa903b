"""What several stages share: templates by name, and sampling that continues where it stopped."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from gzip import BadGzipFile
from itertools import islice
from pathlib import Path

from thinkery.chat import R1_ZERO, THINK_CHAT
from thinkery.core import Completion, Group, Reward, Rollout, Sampling, Score, Task, rule
from thinkery.data.keep import Readable, readable
from thinkery.engine import Engine, EngineConfig
from thinkery.engine.pool import open_engines
from thinkery.errors import ConfigError
from thinkery.evals.attempts import read_groups
from thinkery.evals.benchmark import Benchmark
from thinkery.model.hf import accelerator, load_model
from thinkery.model.tokenizer import require_chat
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.dataset import DatasetWriter
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric, Spread
from thinkery.rollout import rollouts
from thinkery.tasks.templates import QUESTION, TEMPLATE_SETS, is_instruction, put_one
from thinkery.tasks.world import ZERO_TEMPLATE

TEMPLATES = {"r1-zero": R1_ZERO, "world-zero": ZERO_TEMPLATE, "chat": THINK_CHAT}
"""Chat templates by the name a recipe may use; any other text is taken as Jinja."""


def template_of(setting: str) -> str:
    """The Jinja of a recipe's `template` setting; ConfigError for a text that shows no message."""
    if setting and setting not in TEMPLATES and "messages" not in setting:
        hint = f"Jinja with messages, or one of {', '.join(TEMPLATES)}"
        raise ConfigError("not a template", where="template", found=setting, hint=hint)
    return TEMPLATES.get(setting, setting)


def templates_of(settings: Sequence[str]) -> list[str]:
    """The texts of a recipe's `templates` setting, of which each is a set's name or what `put` takes."""
    found = [text for setting in settings for text in TEMPLATE_SETS.get(setting, (TEMPLATES.get(setting, setting),))]
    for text in found:
        if not is_instruction(text) and "messages" not in text:
            hint = f"a text with {QUESTION}, Jinja with messages, or one of {', '.join((*TEMPLATE_SETS, *TEMPLATES))}"
            raise ConfigError("not a template", where="templates", found=text, hint=hint)
    return found


def put_reasoning(tasks: Sequence[Task], templates: Sequence[str], seed: int) -> list[Task]:
    """The tasks with every reasoning question put by one of the templates; general prompts keep their words."""
    return [put_one(task, templates, seed) if is_reasoning(task) else task for task in tasks]


@contextmanager
def open_model(cfg: EngineConfig, model: Model, *, examples: str = "") -> Iterator[Engine]:
    """An engine around an artifact's weights; `examples` is text put before every prompt."""
    network, tokenizer = load_model(model.folder, device=accelerator())
    if examples:
        before = json.dumps(examples, ensure_ascii=False)  # Jinja reads an escaped emoji as two halves
        tokenizer = tokenizer.with_template(f"{{{{ {before} }}}}" + require_chat(tokenizer))
    with open_engines(network, tokenizer, cfg) as engine:
        yield engine


@contextmanager
def spreading(cfg: EngineConfig, ranks: Ranks = ALONE) -> Iterator[Callable[[Rubric], Rubric]]:
    """What has a rubric's rules judged by workers of the cluster that samples; where none does, it stays as it is.

    Ranks that judge together share out the processors of the cluster.
    """
    if not cfg.ray:
        yield lambda rubric: rubric
        return
    from thinkery.engine.executor import open_executor  # takes a second, and is an extra

    processors = cfg.processes * cfg.threads
    with open_executor(cfg.ray, processors=processors, patience_s=cfg.patience_s, ranks=ranks.count) as workers:
        yield lambda rubric: Spread(rubric, workers)


def sample_chunks(
    run: Run,
    engine: Engine,
    tasks: Iterable[Task],
    sampling: Sampling,
    rubric: Rubric,
    writer: DatasetWriter,
    *,
    total: int,
    samples: int,
    chunk: int,
) -> Iterator[tuple[str, list[Group]]]:
    """Judged groups of the `total` tasks, `chunk` at a time in their order, each with the prefix of its rows' keys.

    A chunk is sampled alone and always whole, one that was finished is skipped, and one that was recorded is not asked
    again: a killed run therefore continues with the very samples that an uninterrupted one would have drawn.
    """
    left, recorded = iter(tasks), run.recorded()
    for first in range(0, total, chunk):
        key, some = f"{first:08d}", list(islice(left, chunk))
        if key in writer.keys:
            continue
        paper = Benchmark("chunk", some, rubric, sampling, samples)
        groups = recorded_groups(recorded[first], paper) if first in recorded else []
        if [group.task.id for group in groups] != [task.id for task in some]:
            groups = sampled(run, engine, paper, step=first)
            run.rollouts(first, groups)
        yield key, groups
        writer.skip(key)
        run.progress(first + len(some), total)
        if run.stopping and first + chunk < total:
            run.stop()


def sampled(run: Run, engine: Engine, paper: Benchmark, *, step: int = 0) -> list[Group]:
    """Every question asked and judged, in their order."""
    judged = rollouts(
        engine, paper.tasks, paper.sampling, paper.rubric, samples=paper.samples, seed=run.seed, step=step
    )
    by_task = {group.task.id: group for group in judged}
    return [by_task[task.id] for task in paper.tasks]


def recorded_groups(path: Path, paper: Benchmark) -> list[Group]:
    """The groups of a file of the record, none where a power cut has torn it."""
    try:
        return [group for group, _ in read_groups(path, paper)]
    except (EOFError, BadGzipFile, zlib.error):
        return []


def reads_well(limits: Readable) -> Reward:
    """`readable` as a reward, so that the record says of every sample why it was dropped."""

    @rule
    def readable_score(task: Task, completion: Completion) -> Score:
        reason = readable(Rollout(task, (), completion), limits)
        return Score(1.0, "readable") if reason is None else Score(0.0, reason)

    return readable_score


def is_general(task: Task) -> bool:
    """Whether no rule judges the answer, only people or models of them."""
    return task.kind == "general"


def is_reasoning(task: Task) -> bool:
    """Whether a rule judges the answer."""
    return not is_general(task)


def is_harmful(task: Task) -> bool:
    """Whether a general prompt belongs to the harmless set, where the right answer is often a refusal."""
    return is_general(task) and task.info.get("set") == "harmless"


def is_helpful(task: Task) -> bool:
    """Whether a general prompt belongs to the helpful set."""
    return is_general(task) and not is_harmful(task)
