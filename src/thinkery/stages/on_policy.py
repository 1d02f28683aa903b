"""On-policy distillation: the student answers, and a teacher judges every token of it (`train/teacher.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

from pydantic import Field, model_validator

from thinkery.engine import MembersConfig
from thinkery.engine.scoring import Scorers, open_scorers
from thinkery.engine.vllm import VllmConfig
from thinkery.model.tokenizer import Tokenizer
from thinkery.pipeline.artifact import Dataset, Model
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.common import spreading, template_of
from thinkery.stages.reinforce import Reinforce, loop_of, open_learner, open_sampler, reworded, sized, watch
from thinkery.train import loss
from thinkery.train.grpo import Grpo, grpo
from thinkery.train.policy import Policy
from thinkery.train.teacher import Teacher, beside, elsewhere, require_same_tokens, run_teacher


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
    teacher_engine: MembersConfig = Field(default=MembersConfig(), json_schema_extra={"key": False})
    """Where the teacher computes: in the student's own processes, where it is in parts like the student
    (`grpo.policy.sharding`), or elsewhere, asked by rank 0 for all ranks, none of which then loads it."""
    teacher_vllm: VllmConfig | None = Field(default=None, json_schema_extra={"key": "when set"})
    """Have servers of vLLM judge: those that `python` starts on the teacher, with `teacher_engine.ray` on that cluster,
    or those of `url`, of which nobody checks that it is the teacher that they serve. At temperature 1 only."""

    @model_validator(mode="after")
    def _teacher_has_a_place_of_its_own(self) -> OnPolicyDistill:
        if wrong := contradiction(self):
            raise ValueError(wrong)
        return self

    @property
    def teacher_is_elsewhere(self) -> bool:
        """Whether the student's processes do not hold the teacher."""
        return bool(self.teacher_engine.processes or self.teacher_engine.ray or self.teacher_vllm)


def contradiction(cfg: OnPolicyDistill) -> str:
    """What is wrong with the teacher's settings beside each other and the student's, "" for nothing."""
    there, vllm, student = cfg.teacher_engine, cfg.teacher_vllm, cfg.engine
    if vllm:
        if wrong := vllm.contradicts(there):
            return f"teacher_vllm beside teacher_engine: {wrong}"
        if not (vllm.python or vllm.url or there.ray):
            return "teacher_vllm: a teacher's vLLM is a server: set python, url or teacher_engine.ray"
        if cfg.grpo.temperature != 1:
            return f"teacher_vllm: vLLM judges at temperature 1 alone, and grpo.temperature is {cfg.grpo.temperature:g}"
    if there.ray and student.ray:
        if there.ray != student.ray:
            return f"teacher_engine.ray {there.ray!r} and engine.ray {student.ray!r}: a run is in one Ray cluster"
        if not (there.processes and student.processes):
            return "engine.processes and teacher_engine.processes: say how many actors of the cluster each has"
    return ""


def on_policy_distill(
    run: Run, cfg: OnPolicyDistill, student: Model, teacher: Model, tasks: Dataset, exam: Dataset | None = None
) -> Model:
    """Bring the student's distribution nearer to the teacher's on its own samples; accuracy is recorded, not learnt."""
    with open_learner(run, cfg, student) as policy:
        policy.tokenizer = policy.tokenizer.with_template(template_of(cfg.template))
        require_same_tokens(policy.tokenizer, Tokenizer.load(teacher.folder))
        asked = reworded(run, cfg, list(tasks.tasks()))
        with (
            open_teacher(cfg, policy, teacher) as judge,
            spreading(cfg.engine, run.ranks) as spread,
            open_sampler(sized(cfg, policy, asked, exam), policy) as engine,
        ):
            rubric = spread(Rubric(accuracy=Part(accuracy, weight=0.0)))
            held_out = watch(run, cfg, engine, exam, rubric) if exam and cfg.grpo.eval_every else None
            grpo(run, loop_of(cfg), policy, engine, asked, rubric, held_out=held_out, baseline=judge)
        return run.save_model(policy.save_model)


@contextmanager
def open_teacher(cfg: OnPolicyDistill, policy: Policy, teacher: Model) -> Iterator[Teacher]:
    """The teacher where the settings have it, for as long as the block lasts."""
    if not cfg.teacher_is_elsewhere:
        yield Teacher(beside(policy, policy.frozen(teacher.folder), cfg.grpo.temperature))
        return
    with open_asked(cfg, policy, teacher) if policy.ranks.rank == 0 else nullcontext() as scorers:
        yield Teacher(elsewhere(policy, scorers, cfg.grpo.temperature))


@contextmanager
def open_asked(cfg: OnPolicyDistill, policy: Policy, teacher: Model) -> Iterator[Scorers]:
    """Whom rank 0 asks; in a Ray cluster of this machine alone there is room for the student's engines too."""
    there, device = cfg.teacher_engine, policy.device
    with ExitStack() as stack:
        if there.ray and cfg.engine.ray:
            from thinkery.engine.ray import connected  # takes a second, and is an extra

            stack.enter_context(connected(there.ray, sum(one.processes * one.threads for one in (there, cfg.engine))))
        work = partial(run_teacher, cfg=cfg.grpo.policy, device=device.type if there.ray else str(device))
        on_gpu = device.type == "cuda"
        yield stack.enter_context(open_scorers(teacher.folder, there, work, cfg.teacher_vllm, on_gpu=on_gpu))
