"""The report's plots as SVG text that takes the colour of the page it stands in."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinkery.evals.claims import Stages
from thinkery.evals.metrics import Estimate

INK = "#010203"
"""Stands for the page's text colour; replaced by `currentColor` in the SVG."""
PALETTE = ("#3b82c4", "#e07b39", "#4a9d5b", "#9a6fc0", "#cf4f5f", "#2fa3a0")

Curve = Sequence[tuple[float, float]]
"""Points (update, value) in order."""


def stage_bars(stages: Stages, metric: str) -> str:
    """One bar per stage that has the metric, from the first at the top down, with its 95 % interval."""
    found = {stage: metrics[metric] for stage, metrics in stages.items() if metric in metrics}
    figure, axes = _figure(4.4, max(2.6, 0.4 + 0.22 * len(found)))
    values = [estimate["value"] for estimate in found.values()]
    reach = _reach(list(found.values()))
    axes.barh(list(found), values, color=PALETTE[0], height=0.62, xerr=reach, ecolor=INK, capsize=3)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
    axes.set_title(metric)
    axes.set_xlim(left=0 if min(values) >= 0 else None)
    return _svg(figure, f"bars {metric}")


def learning_curve(title: str, curves: Mapping[str, Curve], base: float | None = None) -> str:
    """Curves over updates on one pair of axes; `base` is a dotted line, the level that learning started from."""
    figure, axes = _figure(4.4, 2.6)
    for (name, points), colour in zip(curves.items(), PALETTE * 3, strict=False):
        dots = {"marker": "o", "markersize": 3} if len(points) <= 40 else {}
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, color=colour, linewidth=1.6, **dots)
    if base is not None:
        axes.axhline(base, linestyle=":", color=INK, linewidth=1.4, label="base")
    if len(curves) + (base is not None) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    axes.set_title(title)
    axes.set_xlabel("update")
    return _svg(figure, f"curve {title}")


def standalone(svg: str) -> str:
    """The element as a file of its own, readable on light and dark."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("currentColor", "#7d8590")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    figure.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.title.set(color=INK, fontsize=10)
    axes.xaxis.label.set(color=INK, fontsize=8)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Distances from value to low and to high, 0 where there is no interval."""
    low = [e["value"] - e["low"] if e["low"] is not None else 0.0 for e in estimates]
    high = [e["high"] - e["value"] if e["high"] is not None else 0.0 for e in estimates]
    return [low, high]


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an `<svg>` element, the same bytes for the same figure; `salt` keeps ids of two figures apart."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
