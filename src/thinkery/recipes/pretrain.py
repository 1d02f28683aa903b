"""How the two embedded bases were made: `thinkery run pretrain`, about half an hour on two cores.

documents ──► base-start ──► base          documents ──► student-start ──► student
"""

from __future__ import annotations

from thinkery.config import Config
from thinkery.pipeline.step import Step, step
from thinkery.stages.pretrain import Corpus, Fresh, Pretrain, fresh, pretrain, world_corpus


class PretrainRecipe(Config):
    """Settings of the embedded bases."""

    documents: Corpus = Corpus()
    """What both read."""
    base: Fresh = Fresh()
    """The base's size."""
    student: Fresh = Fresh(width=96, layers=2, heads=3, feed_forward=256)
    """The student's size."""
    train: Pretrain = Pretrain()
    """How both are trained."""


def pretrain_bases(cfg: PretrainRecipe) -> dict[str, Step]:
    """Documents, then each model fresh and trained."""
    documents = step("documents", world_corpus, cfg.documents)
    base_start = step("base-start", fresh, cfg.base, corpus=documents)
    base = step("base", pretrain, cfg.train, start=base_start, corpus=documents)
    student_start = step("student-start", fresh, cfg.student, corpus=documents)
    student = step("student", pretrain, cfg.train, start=student_start, corpus=documents)
    return {one.name: one for one in (documents, base_start, base, student_start, student)}
