"""On-policy distillation: the student answers, and a teacher judges every token of it (`train/teacher.py`)."""

from __future__ import annotations

from thinkery.model.hf import load_model
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import spreading, template_of
from thinkery.stages.reinforce import Reinforce, format_of, loop_of, open_sampler, watch
from thinkery.train import loss
from thinkery.train.grpo import Grpo, grpo
from thinkery.train.policy import open_policy
from thinkery.train.teacher import Teacher, require_same_tokens


class OnPolicyGrpo(Grpo):
    """The loop of on-policy distillation: one attempt at a question, every token counts the same, no other KL."""

    group_size: int = 1
    average: loss.Average = "token"
    beta: float = 0.0
    minibatches: int = 1
    preflight: int = 0


class OnPolicyDistill(Reinforce):
    """Settings of the on-policy distillation."""

    grpo: Grpo = OnPolicyGrpo()
    """The loop."""
    template: str = "chat"
    """The chat template the student answers with, and keeps: `chat`, or Jinja."""


def on_policy_distill(
    run: Run, cfg: OnPolicyDistill, student: Model, teacher: Model, tasks: Dataset, exam: Dataset | None = None
) -> Model:
    """Bring the student's distribution nearer to the teacher's on its own samples; accuracy is recorded, not learnt."""
    with open_policy(run, student, cfg.grpo.policy, sampled=format_of(cfg)) as policy:
        policy.tokenizer = policy.tokenizer.with_template(template_of(cfg.template))
        network, tokenizer = load_model(teacher.folder)
        require_same_tokens(policy.tokenizer, tokenizer)
        judge = Teacher(policy, network, temperature=cfg.grpo.temperature)
        with spreading(cfg.engine, run.ranks) as spread, open_sampler(cfg, policy) as engine:
            rubric = spread(Rubric(accuracy=Part(accuracy, weight=0.0)))
            held_out = watch(run, cfg, engine, exam, rubric) if exam and cfg.grpo.eval_every else None
            grpo(run, loop_of(cfg), policy, engine, list(tasks.tasks()), rubric, held_out=held_out, baseline=judge)
        return run.save_model(policy.save_model)
