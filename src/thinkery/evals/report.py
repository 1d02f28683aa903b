"""The report of a run: one self-contained HTML page, Markdown, JSON, and plots as SVG.

    record = open_run(Path("runs/demo"))
    data, files = compose(gather(record, evaluations(record)))     # what `thinkery report` does

`data` is report.json: `stages` (name → metric → value, low, high, n), `claims` (id, gated, holds, figures, text),
`differences` (stage → accuracy minus the base's), `funnels` (step → reason → count), `alarms`, `steps` (name → seconds
and status) and `curves` (plot → curve → points).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from thinkery.evals.claims import Stages
from thinkery.evals.figures import learning_curve, stage_bars, standalone
from thinkery.evals.findings import Findings, Funnel, Rung
from thinkery.evals.page import report_page
from thinkery.evals.table import claim_line, columns, markdown_table


def compose(found: Findings) -> tuple[dict[str, Any], dict[str, str]]:
    """What `report.json` holds, and the files beside it by name."""
    figures = draw(found)
    files = {f"figures/{_slug(caption)}.svg": standalone(svg) for caption, svg in figures.items()}
    files |= {"report.html": report_page(found, figures), "report.md": report_markdown(found, list(figures))}
    return report_data(found), files


def report_data(found: Findings) -> dict[str, Any]:
    """The numbers of the report, as JSON."""
    return {
        "run": found.run,
        "stages": found.stages,
        "claims": [asdict(claim) for claim in found.claims],
        "differences": found.differences,
        "alarms": [asdict(alarm) for alarm in found.alarms],
        "steps": {one.name: {"status": one.status, "seconds": one.seconds} for one in found.steps},
        "curves": {plot.title: plot.curves for plot in found.plots},
        "funnels": {funnel.step: {"rows": funnel.rows, "counts": funnel.counts} for funnel in found.funnels},
    }


def draw(found: Findings) -> dict[str, str]:
    """Every plot as an SVG element, by caption: what was learned over updates, then the stages side by side."""
    drawn = {plot.title: learning_curve(plot.title, plot.curves, plot.base) for plot in found.plots}
    shown = [metric for metric in columns(found.stages) if metric not in ("truncated", "repeated")]
    bars = [metric for metric in shown if is_common(metric, found.stages)]
    return drawn | {f"{metric} by stage": stage_bars(found.stages, metric) for metric in bars}


def is_common(metric: str, stages: Stages) -> bool:
    """Whether enough stages have a metric for a picture of it to compare them."""
    return sum(metric in metrics for metrics in stages.values()) >= min(3, len(stages))


def report_markdown(found: Findings, captions: Sequence[str]) -> str:
    """The report in Markdown: the stage table, claims, funnels and links to the plots; completions are in the page."""
    parts = [f"# {found.title}", found.subtitle]
    if found.stages:
        parts += ["## Stages", "95 % intervals over questions.", markdown_table(found.stages)]
    if found.claims:
        parts += ["## Claims of the paper", "\n".join(f"- {claim_line(claim)}" for claim in found.claims)]
    if found.alarms:
        parts += ["## Alarms", "\n".join(map(_alarm_line, found.alarms))]
    if found.funnels:
        parts += ["## Data funnels", "\n".join(map(_funnel_line, found.funnels))]
    if captions:
        parts += ["## Plots", "\n".join(f"![{caption}](figures/{_slug(caption)}.svg)" for caption in captions)]
    return "\n\n".join(parts) + "\n"


def _alarm_line(alarm: Rung) -> str:
    remedy = ", ".join(part for part in (alarm.advice, alarm.setting and f"`{alarm.setting}`") if part)
    return f"- **{alarm.step or 'the run'}**, {alarm.kind}: {alarm.message}" + (f" ({remedy})" if remedy else "")


def _funnel_line(funnel: Funnel) -> str:
    counts = ", ".join(f"{reason} {count}" for reason, count in funnel.counts.items())
    return f"- **{funnel.step}**: {funnel.rows} rows" + (f" ({counts})" if counts else "")


def _slug(caption: str) -> str:
    return re.sub(r"[^a-z0-9@]+", "-", caption.lower()).strip("-")
