"""Prompt sensitivity: the same questions under several templates, and how far accuracy moves with the words.

    paper = under_templates(SUITES["math500"].benchmark("math500", seed=0), TEMPLATE_SETS["chat-exam"])
    evaluate(engine, paper, seed=0)["template_spread"]       # {"value": 0.08, "low": 0.03, "high": 0.13, "n": 500}

R1 is sensitive to how it is asked (v1 §5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

import numpy as np

from thinkery.core import Group, Task
from thinkery.evals.benchmark import Benchmark
from thinkery.evals.metrics import Estimate, paired_difference, share_estimate
from thinkery.tasks.templates import put


def under_templates(benchmark: Benchmark, templates: Sequence[str]) -> Benchmark:
    """The benchmark with every question under every template, and `ByTemplate` for its figures."""
    tasks = [
        replace(put(marked(task), template, number), id=f"{task.id}/template={number}")
        for number, template in enumerate(templates, 1)
        for task in benchmark.tasks
    ]
    return replace(benchmark, tasks=tasks, figures=(partial(ByTemplate, templates),))


def marked(task: Task) -> Task:
    """The task with a note of which question it is."""
    return replace(task, info={**task.info, "question": task.id})


class ByTemplate:
    """Accuracy by template, the mean over them, the worst, and best minus worst.

    Only questions count that were graded under every template. The interval of `template_spread` resamples questions
    and keeps the two templates that were found best and worst. Some spread is there even if no template matters:
    `template_spread_by_chance` is how much, its mean and 95 % range over shuffles of each question's scores.
    """

    def __init__(self, templates: Sequence[str]) -> None:
        self.templates = dict(enumerate(templates, 1))
        self.names = [f"pass@1/template={n}" for n in self.templates] + [
            "template_mean", "template_worst", "template_spread", "template_spread_by_chance",
        ]  # fmt: skip
        self._samples = 0
        self._scores: dict[str, dict[int, float]] = {}
        """By question, and by the template's number: the mean accuracy of the attempts."""

    def add(self, group: Group) -> None:
        """Take in the attempts at one question under one template."""
        scores = [rollout.scores["accuracy"].value for rollout in group.rollouts if "accuracy" in rollout.scores]
        if graded := [score for score in scores if score is not None]:
            info = group.task.info
            self._scores.setdefault(info["question"], {})[info["template"]] = fmean(graded)
            self._samples = len(group.rollouts)

    def estimates(self) -> dict[str, Estimate]:
        """The figures by name; nothing before some question was graded under every template."""
        whole = {id: scores for id, scores in sorted(self._scores.items()) if len(scores) == len(self.templates)}
        if not whole:
            return {}
        columns = {n: {id: scores[n] for id, scores in whole.items()} for n in self.templates}
        by_template = {n: share_estimate(list(column.values()), self._samples) for n, column in columns.items()}
        worst, best = (choose(columns, key=lambda n: by_template[n]["value"]) for choose in (min, max))
        scores_QT = np.array([list(column.values()) for column in columns.values()]).T
        mean = share_estimate(scores_QT.mean(axis=1).tolist(), self._samples * len(columns))
        return {f"pass@1/template={n}": estimate for n, estimate in by_template.items()} | {
            "pass@1": mean,  # in place of one that takes a question under ten templates for ten questions
            "template_mean": mean,
            "template_worst": by_template[worst],
            "template_spread": paired_difference(columns[worst], columns[best]),
            "template_spread_by_chance": spread_by_chance(scores_QT),
        }

    def notes(self) -> list[str]:
        """The templates by number, and what `n` is."""
        return [
            *(f"template {n}: {text}" for n, text in self.templates.items()),
            "metrics other than pass@1 and those by template count a question once for each template",
        ]


def spread_by_chance(scores_QT: np.ndarray, *, seed: int = 0, shuffles: int = 1000) -> Estimate:
    """Best minus worst if no template mattered: each question's scores are dealt out anew to the templates.

    scores_QT: mean accuracy of Q questions under T templates.
    """
    rng = np.random.default_rng(seed)
    spreads = [float(np.ptp(rng.permuted(scores_QT, axis=1).mean(axis=0))) for _ in range(shuffles)]
    low, high = np.quantile(spreads, [0.025, 0.975])
    return Estimate(value=fmean(spreads), low=float(low), high=float(high), n=len(scores_QT))
