"""What zero, reason and align share: settings of a reinforcement-learning stage, and the run from model to model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from pydantic import Field, model_validator

from thinkery.config import Config
from thinkery.core import Sampling, Task
from thinkery.engine import Engine, EngineConfig
from thinkery.engine.base import LearningEngine
from thinkery.engine.pool import open_engines
from thinkery.engine.vllm import VllmConfig, open_vllm
from thinkery.errors import ConfigError
from thinkery.evals.benchmark import Benchmark, evaluate
from thinkery.model.tokenizer import Tokenizer
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.ranks import Ranks
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import RULED
from thinkery.rewards.lint import dry_run_gold, lint
from thinkery.rewards.rubric import Rubric
from thinkery.stages.common import put_reasoning, spreading, template_of, templates_of
from thinkery.train.grpo import Grpo, at, grpo
from thinkery.train.policy import Policy, open_policy

LINTED = 8
"""Tasks on which the rewards are tried out."""


class Reinforce(Config):
    """Settings of every reinforcement-learning stage."""

    grpo: Grpo = Grpo()
    """The loop."""
    engine: EngineConfig = EngineConfig()
    """The sampler."""
    vllm: VllmConfig | None = None
    """Sample with vLLM instead of the built-in engine, with `engine.ray` on that cluster; `grpo.old_logprobs` is then
    "trainer" unless it is set, which corrects for its other arithmetic."""
    templates: tuple[str, ...] = ()
    """Other words to put the reasoning questions in, of which each draws one: sets such as `world-zero-practice`, texts
    with `{question}`, or Jinja. Empty asks all with the model's template, as the exam is in any case."""
    watched: int = Field(default=100, ge=0, json_schema_extra={"key": False})
    """Exam questions asked once every `grpo.eval_every` updates: the curve of held-out accuracy; 0 asks none."""

    @model_validator(mode="after")
    def _vllm_agrees_with_the_engine(self) -> Reinforce:
        if self.vllm and (wrong := self.vllm.contradicts(self.engine)):
            raise ValueError(wrong)
        if self.vllm and self.engine.quantization != "none":
            raise ValueError("engine.quantization is the built-in engine's; vLLM's own is among vllm.arguments")
        return self


def reinforce(
    run: Run,
    cfg: Reinforce,
    start: Model,
    tasks: Sequence[Task] | Callable[[int], Sequence[Task]],
    rubric: Rubric | Callable[[int], Rubric],
    *,
    exam: Dataset | None = None,
    template: str = "",
) -> Model:
    """Train `start` by GRPO; the result keeps `template`, or the model's own where that is empty.

    The exam is only watched: its accuracy goes to the record, and an alarm rings when a reward rises while it falls.
    """
    with (
        open_learner(run, cfg, start) as policy,
        spreading(cfg.engine, run.ranks) as spread,
    ):
        if template:
            policy.tokenizer = policy.tokenizer.with_template(template_of(template))
        tasks = reworded(run, cfg, tasks)
        judge = spread(rubric) if isinstance(rubric, Rubric) else lambda update: spread(rubric(update))
        first_tasks, first_rubric = at(0, tasks, judge)
        try_rewards(run, policy.tokenizer, first_tasks, first_rubric)
        with open_sampler(sized(cfg, policy, tasks, exam), policy) as engine:
            held_out = watch(run, cfg, engine, exam, first_rubric) if exam and cfg.grpo.eval_every else None
            grpo(run, loop_of(cfg), policy, engine, tasks, judge, held_out=held_out)
        return run.save_model(policy.save_model)


def open_learner(run: Run, cfg: Reinforce, start: Model) -> AbstractContextManager[Policy]:
    """The weights that learn, with room for what the engines of these settings sample from."""
    return open_policy(run, start, cfg.grpo.policy, sampled=format_of(cfg), copied=samples_here(cfg))


def format_of(cfg: Reinforce) -> torch.dtype:
    """The number format that engines sample in, as far as the settings alone tell."""
    return torch.bfloat16 if (cfg.vllm or cfg.engine).dtype == "bfloat16" else torch.float32


def samples_here(cfg: object) -> bool:
    """Whether a step with these settings samples by the built-in engine in its own process."""
    return isinstance(cfg, Reinforce) and not (cfg.vllm or cfg.engine.processes or cfg.engine.ray)


def sized(
    cfg: Reinforce, policy: Policy, tasks: Sequence[Task] | Callable[[int], Sequence[Task]], exam: Dataset | None
) -> Reinforce:
    """The settings; on a GPU with an engine that has room for what is asked and no more, where that is known and
    `max_len` is not set, since it records its steps where every row has room at its longest."""
    if policy.device.type != "cuda" or cfg.engine.max_len or cfg.engine.deterministic or callable(tasks):
        return cfg
    asked = [*tasks, *(watched(cfg, exam) if exam and cfg.grpo.eval_every else ())]
    room = longest_text(policy.tokenizer, asked, cfg)
    return cfg.model_copy(update={"engine": cfg.engine.model_copy(update={"max_len": room})})


def longest_text(tokenizer: Tokenizer, asked: Sequence[Task], cfg: Reinforce) -> int:
    """Tokens of the longest question together with the longest answer that it may get."""
    prompts = (tokenizer.prompt(task.messages, template=task.chat_template)[0] for task in asked)
    return max(map(len, prompts), default=1) + max(limit for _, limit in cfg.grpo.max_tokens)


@contextmanager
def open_sampler(cfg: Reinforce, policy: Policy) -> Iterator[LearningEngine]:
    """The engine that follows the policy."""
    require_shared(cfg.engine, policy.ranks)
    if cfg.vllm:
        servers = servers_of(cfg.vllm, policy.ranks)
        with open_vllm(policy.sampled, policy.tokenizer, servers, cfg.engine) as engine:
            yield engine
    else:
        with open_engines(policy.sampled, policy.tokenizer, cfg.engine) as engine:
            yield engine


def require_shared(cfg: EngineConfig, ranks: Ranks) -> None:
    """Raise ConfigError where every rank would take a whole Ray cluster for actors of its own."""
    if cfg.ray and not cfg.processes and ranks.count > 1:
        found = f"0, as many as there is room for, and {ranks.count} ranks"
        hint = "say how many actors each rank has"
        raise ConfigError("every rank needs actors of its own", where="engine.processes", found=found, hint=hint)


def servers_of(cfg: VllmConfig, ranks: Ranks) -> VllmConfig:
    """The settings with the servers of this rank alone, since each rank delivers weights when it is about to sample."""
    servers = cfg.url or cfg.devices
    if servers and len(servers) < ranks.count:
        found = f"{len(servers)} for {ranks.count} ranks"
        raise ConfigError("every rank needs a server of its own", where="vllm", found=found, hint="name more servers")
    return cfg.model_copy(update={name: tuple(ranks.share(getattr(cfg, name))) for name in ("url", "devices")})


def loop_of(cfg: Reinforce) -> Grpo:
    """The loop's settings; samples of vLLM or in 8 bits, samples ahead and samples carried over are corrected by
    importance weights unless the recipe decides otherwise."""
    other = cfg.vllm or cfg.engine.quantization != "none" or cfg.grpo.ahead or cfg.grpo.spare
    if not other or "old_logprobs" in cfg.grpo.model_fields_set:
        return cfg.grpo
    return cfg.grpo.model_copy(update={"old_logprobs": "trainer"})


def reworded(
    run: Run, cfg: Reinforce, tasks: Sequence[Task] | Callable[[int], Sequence[Task]]
) -> Sequence[Task] | Callable[[int], Sequence[Task]]:
    """The tasks, each put by a template that the run's seed draws for it, so that its whole group is asked alike; as
    they are where there are no templates."""
    if not cfg.templates:
        return tasks
    templates = templates_of(cfg.templates)
    run.event("templates", texts=dict(enumerate(templates, 1)))
    if callable(tasks):
        return lambda update: put_reasoning(tasks(update), templates, run.seed)
    return put_reasoning(tasks, templates, run.seed)


def watch(
    run: Run, cfg: Reinforce, engine: Engine, exam: Dataset, rubric: Rubric
) -> Callable[[], dict[str, float]] | None:
    """A function that measures accuracy on the first exam questions, sampled as in evaluation (T 0.6, top-p 0.95).

    None where there is no question with a rule to ask.
    """
    asked = watched(cfg, exam)
    if not asked:
        return None
    longest = cfg.grpo.max_tokens[-1][1]
    sampling = Sampling(temperature=0.6, top_p=0.95, max_tokens=longest)
    paper = Benchmark("exam", asked, rubric.only("accuracy"), sampling, samples=1)
    return lambda: {"eval/exam/pass@1": evaluate(engine, paper, seed=run.seed)["pass@1"]["value"]}


def watched(cfg: Reinforce, exam: Dataset) -> list[Task]:
    """The first exam questions with a rule."""
    return [task for task in exam.tasks() if task.kind in RULED][: cfg.watched]


def try_rewards(run: Run, tokenizer: Tokenizer, tasks: Sequence[Task], rubric: Rubric) -> None:
    """Before any work: a right answer must earn full marks, and what earns them otherwise rings an alarm."""
    judged = [task for task in tasks if task.gold and task.kind in RULED][:LINTED]
    for task in judged:
        _, opened = tokenizer.prompt(task.messages, template=task.chat_template)
        dry_run_gold(rubric, task, opened=opened)
        for finding in lint(rubric, [task], opened=opened):
            if finding.suspicious:
                seen = f"{finding.probe} earns {finding.total}: {finding.why}"
                run.alarm("reward", seen, "rewards", "repair the reward before the model finds this out")
                return
