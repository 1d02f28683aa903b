"""The stage table: which metrics are columns, and how an estimate is written for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.table import Table

from thinkery.evals.claims import GENERAL, HARMLESS, Claim, Stages
from thinkery.evals.metrics import Estimate

COLUMNS = (
    "pass@1", r"pass@\d+", r"cons@\d+", GENERAL, "preference", HARMLESS, "format", "language", "truncated", "repeated",
    "length",
)  # fmt: skip
"""Metrics that become columns, in this order, where any stage has them; all others are details."""

BRIEF = ("pass@1", GENERAL, "preference", HARMLESS, "format", "language", "length")
"""The columns that fit a terminal of 80 characters."""
FEW = 0.03
"""Share of answers cut at the length limit, in any stage, up to which the brief table leaves it out."""


def columns(stages: Stages) -> list[str]:
    """The metrics of the stage table."""
    names = list(dict.fromkeys(name for metrics in stages.values() for name in metrics))
    return list(dict.fromkeys(name for pattern in COLUMNS for name in names if re.fullmatch(pattern, name)))


def details(stages: Stages) -> list[str]:
    """The metrics that are not in the stage table."""
    shown = columns(stages)
    return sorted({name for metrics in stages.values() for name in metrics} - set(shown))


def is_share(metric: str, stages: Stages) -> bool:
    """Whether a metric reads better as a percentage: every stage's value lies in [0, 1], and it is no length."""
    values = [metrics[metric]["value"] for metrics in stages.values() if metric in metrics]
    return "length" not in metric and all(0 <= value <= 1 for value in values)


def cells(stages: Stages, metrics: Sequence[str], digits: int = 1) -> dict[str, list[tuple[str, str]]]:
    """For each stage one (value, interval) per metric, as text; a stage without the metric has ("–", "")."""
    shares = {metric: is_share(metric, stages) for metric in metrics}
    return {
        stage: [write(found.get(metric), shares[metric], digits) for metric in metrics]
        for stage, found in stages.items()
    }


def write(estimate: Estimate | None, share: bool, digits: int = 1) -> tuple[str, str]:
    """An estimate as (value, interval): ("56.7 %", "51.8–61.5"), or ("30.2", "28.9–31.5"); `digits` are those of the
    interval."""
    if estimate is None:
        return "–", ""
    unit = 100 if share else 1
    value = f"{estimate['value'] * unit:.1f}" + (" %" if share else "")
    if estimate["low"] is None or estimate["high"] is None:
        return value, ""
    between = "–" if estimate["low"] >= 0 else " to "
    return value, f"{estimate['low'] * unit:.{digits}f}{between}{estimate['high'] * unit:.{digits}f}"


def questions(metrics: Mapping[str, Estimate]) -> int:
    """How many questions the stage answered: the most that any of its metrics counts."""
    return max((estimate["n"] for estimate in metrics.values()), default=0)


def terminal_table(stages: Stages) -> Table:
    """The stage table for a terminal of 80 columns: the metrics of BRIEF, with rounded 95 % intervals below them, and
    truncation where it is more than a FEW."""
    cut = any(found["truncated"]["value"] > FEW for found in stages.values() if "truncated" in found)
    metrics = [metric for metric in columns(stages) if metric in BRIEF or (cut and metric == "truncated")]
    title = "stages, with 95 % intervals over questions"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for name in (*metrics, "n"):
        table.add_column(name, justify="right", overflow="fold", min_width=4 if name == "n" else 7)
    for stage, row in cells(stages, metrics, digits=0).items():
        table.add_row(stage, *(f"{value}\n{interval}" for value, interval in row), str(questions(stages[stage])))
    return table


def markdown_table(stages: Stages) -> str:
    """The stage table in Markdown."""
    metrics = columns(stages)
    lines = [f"| stage | {' | '.join(metrics)} | n |", "|---|" + "--:|" * (len(metrics) + 1)]
    for stage, row in cells(stages, metrics).items():
        texts = [f"{value} ({interval})" if interval else value for value, interval in row]
        lines.append(f"| {stage} | {' | '.join(texts)} | {questions(stages[stage])} |")
    return "\n".join(lines)


def claim_line(claim: Claim) -> str:
    """A claim in one line: verdict, sentence, figures."""
    mark = "holds" if claim.holds else "FAILS" if claim.gated else "does not hold"
    return f"{mark}: {claim.text} ({', '.join(f'{name} {value:.3g}' for name, value in claim.figures.items())})"
