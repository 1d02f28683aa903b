"""The panels of a stage in their fixed order, and their points, few enough to draw.

A panel shows what belongs together on one pair of axes; a pattern followed by `@right` has its own scale. Points are
thinned to the least and the greatest of each stretch, so that a spike stays a spike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkery.view.library import Book

STRETCHES = 250
"""Stretches that a curve is thinned to; each keeps two points."""


Columns = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By metric: step numbers and values."""

NO_POINTS = (np.empty(0), np.empty(0))


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn together, and what to look for in it."""

    title: str
    note: str
    metrics: tuple[str, ...]
    """Patterns of names, in the order of the legend."""


PANELS = (
    Panel(
        "Reward by component",
        "What the model is paid for. A part that rises alone is often a part that is being gamed.",
        ("reward/mean", r"reward/[^/]+/mean"),
    ),
    Panel(
        "Accuracy and format",
        "Right answers on training questions, and on held-out ones at the dots. They should rise together.",
        (r"eval/.+/pass@1", r"eval/(?!loss).+", "reward/accuracy/mean", "reward/format/mean", "preference/accuracy"),
    ),
    Panel(
        "Lengths and truncation",
        "Tokens, and the share cut at the limit: look at it first, for a cut answer is a wrong answer.",
        ("completion/length_mean", "thought/length_mean", "answer/length_mean", "completion/truncated@right"),
    ),
    Panel(
        "Entropy and KL",
        "Entropy near zero: nothing is tried any more. KL that grows while the reward is flat: drift.",
        ("policy/entropy", "policy/kl@right", "policy/mismatch_kl@right"),
    ),
    Panel("Clipping", "Tokens whose update was clipped, or dropped.", ("policy/clip_.+", "policy/dropped")),
    Panel(
        "Groups without spread",
        "All attempts earned the same, so there was nothing to learn: too easy above, too hard below.",
        ("group/no_spread", "group/no_spread_right", "group/no_spread_wrong", "group/useful"),
    ),
    Panel("Time by phase", "Seconds of one update.", ("time/.+",)),
    Panel(
        "Loss",
        "In reinforcement learning it says little; in fine-tuning it is the headline.",
        ("optim/loss", "eval/loss"),
    ),
    Panel("Learning rate and gradient", "The norm before clipping.", ("optim/grad_norm", "optim/lr@right")),
    Panel(
        "Text",
        "Share of the question's language in thoughts, repetition, words of reflection.",
        ("text/language", "text/repetition", "text/reflection@right"),
    ),
    Panel("Speed and memory", "Tokens a second, and resident bytes.", ("perf/tokens_per_s", "perf/rss@right")),
    Panel("Utilisation", "FLOPs of the model over what matrix products could do in a step's time.", ("perf/mfu",)),
    Panel("Question pool", "How much of the training questions is known, and how hard it is.", ("pool/(?!tasks).+",)),
)

LABELS = {
    "reward/mean": "reward",
    "completion/length_mean": "completion",
    "thought/length_mean": "thought",
    "answer/length_mean": "answer",
    "completion/truncated": "cut at the limit",
    "group/no_spread": "no spread",
    "group/no_spread_right": "all right",
    "group/no_spread_wrong": "all wrong",
    "group/useful": "useful of those learnt",
    "optim/lr": "learning rate",
    "perf/rss": "memory",
}
"""What a legend calls a metric where its own name says too much or too little."""


def curves(book: Book, stage: str, after: int = -1, generation: int = 0) -> dict[str, Any]:
    """The panels that a stage has points for, with its marks; everything when the curve was cut back meanwhile."""
    metrics = book.metrics(stage)
    whole = after < 0 or generation != metrics.generation
    columns = metrics.columns()
    steps, times = columns.get("step", NO_POINTS)[1], columns.get("at", NO_POINTS)[1]
    drawn = [_points(panel, columns, -1 if whole else after) for panel in (*PANELS, _rest(columns))]
    return {
        "whole": whole,
        "generation": metrics.generation,
        "last": int(steps[-1]) if len(steps) else after,
        "live": book.step(stage).status == "running",
        "panels": [panel for panel in drawn if panel],
        "marks": marks(book, stage, steps, times),
    }


def marks(book: Book, stage: str, steps: np.ndarray, times: np.ndarray) -> list[dict[str, Any]]:
    """Alarms and checkpoints at the step numbers where they happened."""
    found = []
    for event in book.events_of(stage, "alarm", "checkpoint", "resumed"):
        place = min(int(np.searchsorted(times, event["at"])), len(steps) - 1)
        step = event.get("at_step", int(steps[place]) if len(steps) else 0)
        name = event.get("alarm", event["kind"])
        found.append({"step": step, "kind": event["kind"], "name": name, "text": event.get("message", "")})
    return found


def thinned(x: np.ndarray, y: np.ndarray, stretches: int = STRETCHES) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest point of each stretch, the first and the last point, in order."""
    if len(x) <= 2 * stretches:
        return x, y
    size = -(-len(x) // stretches)
    padded = np.concatenate([y, np.full(-len(y) % size, y[-1])]).reshape(-1, size)
    begins = np.arange(len(padded)) * size
    kept = np.concatenate([[0, len(x) - 1], begins + padded.argmin(axis=1), begins + padded.argmax(axis=1)])
    order = np.unique(kept.clip(max=len(x) - 1))
    return x[order], y[order]


def _rest(names: Iterable[str]) -> Panel:
    """What no other panel shows."""
    known = [pattern.removesuffix("@right") for panel in PANELS for pattern in panel.metrics] + ["step", "at"]
    left = [re.escape(name) for name in sorted(names) if not any(re.fullmatch(one, name) for one in known)]
    return Panel("Everything else", "Whatever else this stage recorded.", tuple(left))


def _points(panel: Panel, columns: Columns, after: int) -> dict[str, Any] | None:
    """The panel's series with their points above `after`, None where there are none."""
    series: dict[str, dict[str, Any]] = {}
    for pattern in panel.metrics:
        for name in sorted(columns):
            if name not in series and re.fullmatch(pattern.removesuffix("@right"), name):
                x, y = columns[name]
                begin = int(np.searchsorted(x, after, side="right"))
                if begin < len(x):
                    many = len(x) >= len(columns["step"][0]) / 2 and len(x) > 2
                    about = {"name": name, "label": _label(name), "right": pattern.endswith("@right"), "dots": not many}
                    series[name] = about | _thinned_points(x[begin:], y[begin:])
    about = {"id": slug(panel.title), "title": panel.title, "note": panel.note}
    return about | {"series": list(series.values())} if series else None


def _thinned_points(x: np.ndarray, y: np.ndarray) -> dict[str, list]:
    x, y = thinned(x, y)
    return {"x": x.tolist(), "y": [float(f"{value:.6g}") for value in y]}


def slug(title: str) -> str:
    """A title as part of an address."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _label(name: str) -> str:
    if name in LABELS:
        return LABELS[name]
    if found := re.fullmatch(r"reward/(.+)/mean", name):
        return found[1]
    if found := re.fullmatch(r"eval/(.+)/pass@1", name):
        return f"held-out {found[1]}"
    return name.partition("/")[2].replace("_", " ") if not name.startswith("eval/") else f"held-out {name[5:]}"
