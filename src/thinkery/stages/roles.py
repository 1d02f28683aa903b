"""Who edits and who judges: the embedded world's fixed rules, an LLM behind an endpoint, or a model of the graph."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from thinkery.config import Config
from thinkery.core import Completion, Reward, Sampling, Score, Task
from thinkery.data.rewrite import Draft, Edited, EndpointEditor
from thinkery.engine import Engine, EngineConfig
from thinkery.engine.http import HttpConfig, HttpEngine
from thinkery.engine.pool import open_engines
from thinkery.errors import ConfigError
from thinkery.model.hf import accelerator, load_model
from thinkery.pipeline.artifact import Model
from thinkery.rewards.accuracy import RULED, accuracy
from thinkery.rewards.judge import VERDICTS, Comparison, ReferenceJudge, SafetyJudge, compare
from thinkery.tasks.world import has_rule, prefer, unsafe
from thinkery.tasks.world.editor import rewrite

Edit = Callable[[Sequence[Draft]], list[Edited | None]]
"""Drafts → rewritten ones, in order; None where the editor failed."""

Compare = Callable[[Sequence[tuple[Task, Completion, Completion]], int, int], list[Comparison]]
"""(triples, judgements of each, seed) → the verdicts on each pair, seen from the first answer."""

Label = Callable[[Sequence[tuple[Task, Completion]]], list[bool | None]]
"""Responses → whether each is safe; None where the judge's reply could not be read."""


class Role(Config):
    """Who does a job that people or large models do in the paper."""

    who: Literal["world", "endpoint", "model"] = "world"
    """`world`: the fixed rules of the embedded world, for its own tasks only; `endpoint`: an OpenAI-style API;
    `model`: the model wired into the step."""
    endpoint: HttpConfig | None = None
    """Where the API is, for `who = "endpoint"`."""
    sampling: Sampling = Sampling(temperature=0.3, max_tokens=8192)
    """How a language model in this role is sampled."""
    engine: EngineConfig = EngineConfig()
    """The sampler, for `who = "model"`."""


class Editor(Role):
    """Who rewrites zero's samples."""

    who: Literal["world", "endpoint", "model", "none"] = "world"
    """`world`, `endpoint` and `model` as for every role; `none`: nobody, right and readable samples stay as they are,
    which is honest where no model at hand can edit."""


@contextmanager
def engine_of(role: Role, model: Model | None) -> Iterator[Engine]:
    """The language model that plays a role."""
    with ExitStack() as stack:
        if role.who == "endpoint":
            if role.endpoint is None:
                raise ConfigError(
                    "an endpoint needs an address", where="endpoint", hint='endpoint.url = "https://…/v1"'
                )
            engine = HttpEngine(role.endpoint)
            stack.callback(engine.release)
            yield engine
        else:
            if model is None:
                raise ConfigError("no model is wired in for this role", where="who", hint='set who = "endpoint"')
            loaded = load_model(model.folder, device=accelerator())
            yield stack.enter_context(open_engines(*loaded, role.engine))


@contextmanager
def accuracy_of(role: Role, model: Model | None) -> Iterator[Reward]:
    """The rules for tasks that have one; a judge compares with the reference answer where there is none."""
    if role.who == "world":
        yield accuracy
        return
    with engine_of(role, model) as engine:
        yield RuleOrReference(ReferenceJudge(engine, role.sampling))


class RuleOrReference:
    """Accuracy by rule where the task's kind has one, else by a model that reads the reference (v1 §2.3.3)."""

    def __init__(self, judge: ReferenceJudge) -> None:
        self.judge = judge

    def __call__(self, task: Task, completion: Completion) -> Score:
        return self.batch([(task, completion)])[0]

    def batch(self, pairs: Sequence[tuple[Task, Completion]]) -> list[Score]:
        """One score per pair, in order."""
        ruled = [pair for pair in pairs if pair[0].kind in RULED]
        open_ended = [pair for pair in pairs if pair[0].kind not in RULED]
        by_rule, by_judge = iter(accuracy.batch(ruled)), iter(self.judge.batch(open_ended))
        return [next(by_rule if task.kind in RULED else by_judge) for task, _ in pairs]


@contextmanager
def editor_of(role: Editor, model: Model | None) -> Iterator[Edit]:
    """The editor of cold-start data."""
    if role.who == "none":
        yield lambda drafts: [Edited(thought, answer) for _, thought, answer, _ in drafts]
        return
    if role.who == "world":
        yield lambda drafts: [Edited(*rewrite(*draft)) for draft in drafts]
        return
    with engine_of(role, model) as engine:
        yield EndpointEditor(engine, role.sampling).batch


@contextmanager
def compare_of(role: Role, model: Model | None) -> Iterator[Compare]:
    """The judge of pairs of answers."""
    if role.who == "world":
        yield compare_by_rules
        return
    with engine_of(role, model) as engine:

        def ask(triples: Sequence[tuple[Task, Completion, Completion]], times: int, seed: int) -> list[Comparison]:
            texts = [(task.prompt, first.answer, second.answer) for task, first, second in triples]
            return compare(engine, texts, role.sampling, times=times, seed=seed)

        yield ask


@contextmanager
def label_of(role: Role, model: Model | None) -> Iterator[Label]:
    """The judge of safety."""
    if role.who == "world":
        yield lambda pairs: [not unsafe(ruled(task), completion) for task, completion in pairs]
        return
    with engine_of(role, model) as engine:
        yield SafetyJudge(engine, role.sampling).label


def compare_by_rules(triples: Sequence[tuple[Task, Completion, Completion]], times: int, seed: int) -> list[Comparison]:
    """The world's verdicts on each pair, half of them in swapped order."""
    found = []
    for task, first, second in triples:
        rng = random.Random(f"{seed}/{task.id}")
        straight = [VERDICTS[prefer(ruled(task), first, second, rng)] for _ in range(times - times // 2)]
        swapped = [-VERDICTS[prefer(task, second, first, rng)] for _ in range(times // 2)]
        found.append(Comparison(scores=(*straight, *swapped), failures=0))
    return found


def ruled(task: Task) -> Task:
    """The task itself, if the world's rules can judge it."""
    if not has_rule(task):
        hint = 'set the role\'s who = "endpoint" or "model"'
        raise ConfigError("only the embedded world's own tasks have rules", where="who", found=task.source, hint=hint)
    return task
