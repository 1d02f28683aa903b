"""What a run directory has to say, gathered for the report: stages, claims, curves, funnels, answers side by side.

An evaluation is a Report artifact with `{"stage": name, "metrics": {...}}` and the rollouts it judged beside it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from thinkery.evals.claims import BASE, ZERO, Claim, Stages, check_claims
from thinkery.evals.figures import Curve
from thinkery.evals.metrics import Estimate, paired_difference
from thinkery.pipeline.artifact import Dataset, Report
from thinkery.pipeline.read import RunRecord, StepRecord

CURVES = {
    "reward/mean": "reward",
    "completion/length_mean": "tokens per completion",
    "completion/truncated": "share cut at the limit",
    "text/language": "language share",
    "policy/entropy": "entropy",
}
"""Metrics of the RL stages that are drawn, and the titles of their plots."""

PHASES = {
    "time/rollout": "sampling",
    "time/reward": "judging, beside it",
    "time/grading": "waiting for judges",
    "time/update": "learning",
}
"""Parts of an update's time that are drawn, and what they are called."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answered:
    """One question and the first attempt at it of every stage that was asked."""

    prompt: str
    gold: str | None
    answers: dict[str, dict[str, Any]]
    """By stage: a row of the record."""


@dataclass(frozen=True, slots=True)
class Funnel:
    """What happened to the rows of a data set on their way."""

    step: str
    rows: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves for one pair of axes; `base` is the level that learning started from."""

    title: str
    curves: dict[str, Curve]
    base: float | None = None


@dataclass(frozen=True, slots=True)
class Rung:
    """An alarm of a step: what was seen, what to do about it, the setting to change."""

    step: str
    kind: str
    message: str
    advice: str
    setting: str


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything the report shows, without any layout."""

    run: str
    title: str
    subtitle: str
    stages: dict[str, dict[str, Estimate]]
    claims: list[Claim]
    differences: dict[str, Estimate]
    """Accuracy minus the base's, by stage."""
    steps: list[StepRecord] = field(default_factory=list)
    """The steps that make models and data, in order, with how long they took."""
    alarms: list[Rung] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    questions: list[Answered] = field(default_factory=list)
    funnels: list[Funnel] = field(default_factory=list)


def gather(record: RunRecord, reports: Sequence[Report], *, title: str = "", questions: int = 6) -> Findings:
    """Read everything; `questions` is how many questions are shown side by side."""
    stages = stage_metrics(reports)
    for stage, spent in compute(record).items():
        stages.get(stage, {}).update(train_flops=spent)
    attempts = stage_attempts(reports)
    begun = datetime.fromtimestamp(record.run["created"], UTC)
    return Findings(
        run=record.id,
        title=title or "From a base model to a reasoning model",
        subtitle=f"run {record.id} · begun {begun:%Y-%m-%d %H:%M} UTC · {record.path.name}",
        stages=stages,
        claims=check_claims(stages),
        differences=differences(attempts),
        steps=[step for step in record.steps.values() if step.kind != "Report"],
        alarms=alarms(record),
        plots=plots(record, stages),
        questions=side_by_side(attempts, questions),
        funnels=[Funnel(a.name, len(a), a.funnel) for a in record.artifacts.values() if isinstance(a, Dataset)],
    )


def evaluations(record: RunRecord) -> list[Report]:
    """The finished evaluations of a run, in the order of its graph."""
    reports = [artifact for artifact in record.artifacts.values() if isinstance(artifact, Report)]
    return [report for report in reports if "stage" in report.data]


def stage_metrics(reports: Iterable[Report]) -> dict[str, dict[str, Estimate]]:
    """Estimates by stage and metric; several evaluations of one stage are merged."""
    stages: dict[str, dict[str, Estimate]] = {}
    for data in (report.data for report in reports):
        stages.setdefault(data["stage"], {}).update(data["metrics"])
    return stages


def alarms(record: RunRecord) -> list[Rung]:
    """What rang in the steps as they are now."""
    return [
        Rung(row["step"] or "", row["alarm"], row["message"], row.get("advice", ""), row.get("setting", ""))
        for row in record.alarms()
    ]


def compute(record: RunRecord) -> dict[str, Estimate]:
    """FLOPs of sampling and learning, by the step that spent them; n is the number of its updates."""
    spent = {name: [row["perf/flops"] for row in record.metrics(name) if "perf/flops" in row] for name in record.steps}
    return {
        name: Estimate(value=sum(flops), low=None, high=None, n=len(flops)) for name, flops in spent.items() if flops
    }


def stage_attempts(reports: Iterable[Report]) -> dict[str, Rows]:
    """Every judged attempt of every evaluation, by stage."""
    attempts: dict[str, Rows] = {}
    for report in reports:
        attempts.setdefault(report.data["stage"], []).extend(report.attempts())
    return attempts


def differences(attempts: Mapping[str, Rows]) -> dict[str, Estimate]:
    """Each stage's accuracy minus the base's, paired by question; nothing without a base."""
    accuracy = {stage: _accuracy(rows) for stage, rows in attempts.items()}
    base = accuracy.pop(BASE, {})
    return {stage: paired_difference(base, own) for stage, own in accuracy.items() if own.keys() & base.keys()}


def side_by_side(attempts: Mapping[str, Rows], count: int) -> list[Answered]:
    """Questions that every stage was asked, of every kind in turn, those first on which the stages differ most.

    A stage that was asked none of the first stage's questions sat another exam and is left out.
    """
    first = {stage: _first(rows) for stage, rows in attempts.items() if rows}
    if not first:
        return []
    exam = next(iter(first.values())).keys()
    first = {stage: rows for stage, rows in first.items() if rows.keys() & exam}
    accuracy = {stage: _accuracy(rows) for stage, rows in attempts.items()}
    shared = [id for id in next(iter(first.values())) if all(id in rows for rows in first.values())]
    asked = {id: next(iter(first.values()))[id] for id in shared}

    def disagreement(id: str) -> float:
        scores = [own[id] for own in accuracy.values() if id in own]
        return max(scores) - min(scores) if scores else 0.0

    by_kind: dict[str, list[str]] = {}
    for id in sorted(shared, key=lambda id: (-disagreement(id), id)):
        by_kind.setdefault(asked[id]["kind"], []).append(id)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_kind.values()))
    chosen = itertools.islice((id for id in turns if id is not None), count)
    return [
        Answered(asked[id]["prompt"], asked[id]["gold"], {stage: rows[id] for stage, rows in first.items()})
        for id in chosen
    ]


def plots(record: RunRecord, stages: Stages) -> list[Plot]:
    """Accuracy over zero's updates beside the base, then reward, length, language and time of every RL stage."""
    rows = {name: record.metrics(name) for name, step in record.steps.items() if step.kind == "Model"}
    rows = {name: found for name, found in rows.items() if any("reward/mean" in row for row in found)}
    drawn = []
    if accuracy := _accuracy_curves(rows.get(ZERO, [])):
        base = stages.get(BASE, {}).get("pass@1")
        drawn.append(Plot("accuracy over zero's updates", accuracy, base["value"] if base else None))
    for metric, title in CURVES.items():
        curves = {name: curve for name, found in rows.items() if (curve := _curve(found, metric))}
        if curves:
            drawn.append(Plot(title, curves))
    for name, found in rows.items():
        if phases := {phase: curve for metric, phase in PHASES.items() if (curve := _curve(found, metric))}:
            drawn.append(Plot(f"seconds per update of {name}", phases))
    return drawn


def _accuracy_curves(rows: Rows) -> dict[str, Curve]:
    held_out = sorted({name for row in rows for name in row if re.fullmatch(r"eval/.+/pass@1", name)})
    named = {"training questions": "reward/accuracy/mean"} | {f"held-out {n.split('/')[1]}": n for n in held_out}
    return {name: curve for name, metric in named.items() if (curve := _curve(rows, metric))}


def _curve(rows: Rows, metric: str) -> Curve:
    return [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]


def _accuracy(rows: Rows) -> dict[str, float]:
    """Mean accuracy by question, over its graded attempts."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        value = row["scores"].get("accuracy", {}).get("value")
        if value is not None:
            scores.setdefault(row["task"], []).append(value)
    return {task: fmean(values) for task, values in scores.items()}


def _first(rows: Rows) -> dict[str, dict[str, Any]]:
    """The attempt with the lowest sample number at each question."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["task"] not in first or row["sample"] < first[row["task"]]["sample"]:
            first[row["task"]] = row
    return first
