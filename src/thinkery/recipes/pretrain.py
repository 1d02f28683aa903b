"""How the two embedded bases were made: `thinkery run pretrain` on one thread, about an hour.

words ─► base-start ─textbooks─► base-schooled ─exercises─► base-drilled ─crawl─► base         the student likewise
"""

from __future__ import annotations

from thinkery.pipeline.step import Step, step
from thinkery.recipes.common import RecipeConfig
from thinkery.stages.pretrain import (
    Corpus,
    Crawl,
    Drill,
    Fresh,
    Pretrain,
    School,
    fresh,
    pretrain,
    world_corpus,
    world_crawl,
)


class PretrainRecipe(RecipeConfig):
    """Settings of the embedded bases."""

    words: Crawl = Crawl(documents=20_000)
    """What the tokenizer's merges are learnt from: a crawl of its own, so that another crawl needs no new tokenizer."""
    textbooks: Corpus = Corpus(kind="textbooks", documents=60_000)
    """What both read first."""
    exercises: Corpus = Corpus(kind="exercises", documents=150_000)
    """What the base works through."""
    student_exercises: Corpus = Corpus(kind="exercises", documents=25_000)
    """What the student works through: a sixth, so that it lacks skill and not only size."""
    crawl: Crawl = Crawl(tagged=0.08, careful=0.12, halfway=0.5)
    """What the base reads then."""
    student_crawl: Crawl = Crawl(tagged=0.02, careful=0.12, halfway=0.5)
    """What the student reads then: it sees the tags a quarter as often."""
    base: Fresh = Fresh()
    """The base's size."""
    student: Fresh = Fresh(width=96, layers=3, heads=3, feed_forward=256)
    """The student's size."""
    school: School = School()
    """How both read the textbooks."""
    drill: Drill = Drill()
    """How both work through the exercises."""
    read: Pretrain = Pretrain()
    """How both read the crawl."""


def pretrain_bases(cfg: PretrainRecipe) -> dict[str, Step]:
    """Documents, then each model fresh, schooled, drilled and well read."""
    textbooks = step("textbooks", world_corpus, cfg.textbooks)
    words = step("words", world_crawl, cfg.words)
    crawl = step("crawl", world_crawl, cfg.crawl)
    exercises = step("exercises", world_corpus, cfg.exercises)
    student_crawl = step("student-crawl", world_crawl, cfg.student_crawl)
    student_exercises = step("student-exercises", world_corpus, cfg.student_exercises)
    steps = [words, textbooks, exercises, crawl, student_exercises, student_crawl]
    for name, size, work, read in (
        ("base", cfg.base, exercises, crawl),
        ("student", cfg.student, student_exercises, student_crawl),
    ):
        start = step(f"{name}-start", fresh, size, corpus=words)
        schooled = step(f"{name}-schooled", pretrain, cfg.school, start=start, corpus=textbooks)
        drilled = step(f"{name}-drilled", pretrain, cfg.drill, start=schooled, corpus=work)
        steps += [start, schooled, drilled, step(name, pretrain, cfg.read, start=drilled, corpus=read)]
    return {one.name: one for one in steps}
