"""One's own task: GRPO on one's own data and reward, and the exam that shows what it brought."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from thinkery.config import Config
from thinkery.evals.measure import Extract
from thinkery.pipeline.artifact import Dataset, Model, Report
from thinkery.pipeline.run import Run
from thinkery.rewards.accuracy import accuracy, lenient_accuracy
from thinkery.rewards.custom import load_reward, reward_hash
from thinkery.rewards.extract import bare_answer, final_answer
from thinkery.rewards.format import thinks_then_answers
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.evaluate import Exam, sit_exam
from thinkery.stages.reinforce import Reinforce, reinforce


class Verdict(Config):
    """What says whether an answer is right."""

    reward: str = ""
    """`file.py:function` of a reward of one's own, 1 for right; empty takes the rule for the task's kind."""
    content: str = ""
    """sha256 of the reward's file, read anew each time, so that an edited reward is another setting."""
    bare: bool = Field(default=False, json_schema_extra={"key": "when set"})
    """Whether an answer may stand anywhere, without a tag or a box: the last number, letter or line counts, so that a
    learnt form earns nothing. For the rules only; a reward of one's own finds its answer itself."""
    format_weight: float = 0.2
    """Weight of the form `<think>…</think> <answer>…</answer>` beside the verdict; 0 asks for no form."""

    @model_validator(mode="before")
    @classmethod
    def _read_content(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("reward"):
            return values | {"content": reward_hash(values["reward"])}
        return values

    @property
    def extract(self) -> Extract:
        """What finds an attempt's answer when attempts vote."""
        return bare_answer if self.bare else final_answer

    def rubric(self) -> Rubric:
        """The verdict, which the record calls accuracy, and the form."""
        # Nobody but its author knows what a right answer earns by a reward of one's own, so any pay is full marks.
        rule = Part(lenient_accuracy if self.bare else accuracy)
        verdict = Part(load_reward(self.reward), full_marks=1e-9) if self.reward else rule
        form = {"format": Part(thinks_then_answers, weight=self.format_weight)} if self.format_weight else {}
        return Rubric(accuracy=verdict, **form)


class Practise(Reinforce):
    """Settings of learning by one's own reward."""

    template: str = "r1-zero"
    """What the model is asked with, and what the result keeps: `r1-zero` (v1 Table 1), `chat`, Jinja, or empty for the
    model's own."""
    verdict: Verdict = Verdict()
    """What says whether an answer is right."""


class Examine(Exam):
    """Settings of the exam before and after."""

    verdict: Verdict = Verdict()
    """What says whether an answer is right."""


def practise(run: Run, cfg: Practise, base: Model, tasks: Dataset, exam: Dataset | None = None) -> Model:
    """Train a model by GRPO on tasks that a reward of one's own judges; the exam is only watched."""
    return reinforce(run, cfg, base, list(tasks.tasks()), cfg.verdict.rubric(), exam=exam, template=cfg.template)


practise.on_all_ranks = True  # type: ignore[attr-defined]


def examine(run: Run, cfg: Examine, model: Model, exam: Dataset) -> Report:
    """Ask every exam question and judge the answers by the same verdict as in practice."""
    paper = cfg.paper(exam.tasks(), cfg.verdict.rubric())
    return sit_exam(run, cfg, model, replace(paper, extract=cfg.verdict.extract))
