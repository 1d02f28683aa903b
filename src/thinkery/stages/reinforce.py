"""What zero, reason and align share: settings of a reinforcement-learning stage, and the run from model to model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thinkery.config import Config
from thinkery.core import Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.model.tokenizer import Tokenizer
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import RULED
from thinkery.rewards.lint import dry_run_gold, lint
from thinkery.rewards.rubric import Rubric
from thinkery.stages.common import template_of
from thinkery.train.grpo import Grpo, at, grpo
from thinkery.train.policy import open_policy

LINTED = 8
"""Tasks on which the rewards are tried out."""


class Reinforce(Config):
    """Settings of every reinforcement-learning stage."""

    grpo: Grpo = Grpo()
    """The loop."""
    engine: EngineConfig = EngineConfig()
    """The sampler."""


def reinforce(
    run: Run,
    cfg: Reinforce,
    start: Model,
    tasks: Sequence[Task] | Callable[[int], Sequence[Task]],
    rubric: Rubric | Callable[[int], Rubric],
    *,
    template: str = "",
) -> Model:
    """Train `start` by GRPO; the result keeps `template`, or the model's own where that is empty."""
    with open_policy(run, start, cfg.grpo.policy) as policy:
        if template:
            policy.tokenizer = policy.tokenizer.with_template(template_of(template))
        try_rewards(run, policy.tokenizer, *at(0, tasks, rubric))
        with open_engine(policy.network, policy.tokenizer, cfg.engine) as engine:
            grpo(run, cfg.grpo, policy, engine, tasks, rubric)
        return run.save_model(policy.save_model)


def try_rewards(run: Run, tokenizer: Tokenizer, tasks: Sequence[Task], rubric: Rubric) -> None:
    """Before any work: a right answer must earn full marks, and what earns them otherwise rings an alarm."""
    judged = [task for task in tasks if task.gold and task.kind in RULED][:LINTED]
    for task in judged:
        _, opened = tokenizer.prompt(task.messages)
        dry_run_gold(rubric, task, opened=opened)
        for finding in lint(rubric, [task], opened=opened):
            if finding.suspicious:
                run.alarm("reward", f"{finding.probe} earns {finding.total}: {finding.why}", "rewards")
                return
