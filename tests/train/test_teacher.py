"""On-policy distillation: each token's advantage by hand, and a student that comes nearer to its teacher."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tokenizers import AddedToken

from thinkery.core import Completion, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.errors import InputError
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Part, Rubric
from thinkery.stages.on_policy import OnPolicyGrpo
from thinkery.train.batch import Example
from thinkery.train.grpo import grpo
from thinkery.train.policy import PolicyConfig
from thinkery.train.teacher import Teacher, beside, require_same_tokens, taught

TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(6)]


def test_a_tokens_advantage_is_how_much_more_the_teacher_likes_it():
    attempt = Example([7, 1, 2], learn_from=1, old=(-1.0, -0.5), sampler=(-1.0, -0.5))
    assert taught(attempt, [-0.25, -2.5]).advantage.tolist() == [0.75, -2.0]


def test_a_teacher_that_is_the_student_finds_nothing_to_teach(make_policy):
    policy = make_policy()
    example = Example([5, 6, 7, 8], learn_from=2)
    known = replace(example, old=policy.logprobs([example])[0])
    teacher = Teacher(beside(policy, make_policy().network, 1.0))
    [[judged]] = teacher.compare([[known]])
    assert judged.advantage.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert teacher.learn([judged], total=1) == {"distill/reverse_kl": pytest.approx(0.0, abs=1e-6)}


def test_the_students_reverse_kl_to_its_teacher_falls(make_policy, tmp_path):
    def nothing(task: Task, completion: Completion) -> float:
        return 0.0

    student, teacher = make_policy(seed=0, lr=1e-2), make_policy(seed=5)
    run = Run(tmp_path / "run", "distill", seed=3)
    cfg = OnPolicyGrpo(
        policy=PolicyConfig(lr=1e-2), updates=15, questions_per_update=6, max_tokens=((0, 24),), keep_rollouts=0
    )
    judge = Teacher(beside(student, teacher.network, 1.0))
    with open_engine(student.network, student.tokenizer, EngineConfig(max_batch=32, max_len=128)) as engine:
        grpo(run, cfg, student, engine, TASKS, Rubric(none=Part(nothing, weight=0.0)), baseline=judge)
    found = [json.loads(line)["distill/reverse_kl"] for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    assert len(found) == 15
    assert sum(found[-3:]) < 0.75 * sum(found[:3])


def test_other_tokens_than_the_students_are_refused(make_policy):
    ours, theirs = make_policy().tokenizer, make_policy().tokenizer
    require_same_tokens(ours, theirs)
    theirs.backend.add_tokens([AddedToken("new")])
    with pytest.raises(InputError, match=r"different tokens.*257 and 258 tokens, 1 of them"):
        require_same_tokens(ours, theirs)
