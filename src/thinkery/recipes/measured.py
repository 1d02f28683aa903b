"""Plans that a finished run has taught: `thinkery plan RECIPE --like RUN`.

Arithmetic knows how work grows with the settings, but neither how long this model's texts are nor how fast this
machine is at them; a run of the same graph on the same machine knows both. So of every step that the run has done,

    seconds = measured seconds x planned seconds / seconds planned for the run's own settings

where pauses of the machine are taken out of what was measured, and tokens likewise; memory is what the run held, and
the planned difference. What the run has not done stays as it is planned. The sampled texts must be of about the same
length: another model or template makes another plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from thinkery.pipeline.read import RunRecord
from thinkery.recipes.plan import Need, Plan


def taught(new: Plan, old: Plan, run: RunRecord) -> Plan:
    """The plan `new`, corrected by a run of which `old` is the plan."""
    planned = {need.step: need for need in old.needs}
    done = {name for name, step in run.steps.items() if step.status == "done"}
    needs = [
        corrected(need, planned[need.step], usual(run, need.step))
        if need.step in planned and need.step in done
        else need
        for need in new.needs
    ]
    return replace(new, needs=needs)


def corrected(new: Need, old: Need, was: Mapping[str, float]) -> Need:
    """One step's need, from what it was planned to need and did need."""
    seconds = was["seconds"] * (new.seconds / old.seconds if old.seconds else 1.0)
    tokens = was["tokens"] * new.tokens / old.tokens if was["tokens"] and old.tokens else new.tokens
    memory = was["memory"] + new.memory - old.memory if was["memory"] else new.memory
    return replace(new, seconds=seconds, tokens=tokens, memory=memory)


def measured(run: RunRecord, step: str) -> dict[str, float]:
    """What a done step took: seconds, tokens that it sampled or learnt, memory of the process; 0 where not recorded."""
    rows = run.metrics(step)
    return {
        "seconds": run.steps[step].seconds,
        "tokens": sum(row["perf/tokens_per_s"] * row["time/step"] for row in rows if "perf/tokens_per_s" in row),
        "memory": max((row["perf/rss"] for row in rows if "perf/rss" in row), default=0.0),
    }


def usual(run: RunRecord, step: str) -> dict[str, float]:
    """What a done step would have taken had every pass through its loop taken the median time: a machine may pause."""
    times = [row["time/step"] for row in run.metrics(step) if "time/step" in row]
    was = measured(run, step)
    return was | {"seconds": was["seconds"] - sum(times) + len(times) * median(times)} if times else was


def settings_of(run: RunRecord) -> dict[str, Any]:
    """The settings of a run as nested blocks, from its dotted keys."""
    nested: dict[str, Any] = {}
    for key, kept in run.recipe.items():
        *path, last = key.split(".")
        block = nested
        for name in path:
            block = block.setdefault(name, {})
        block[last] = kept["value"]
    return _listed(nested)


def _listed(block: Any) -> Any:
    """The same, with blocks whose names count from 0 as lists."""
    if not isinstance(block, dict):
        return block
    inner = {name: _listed(value) for name, value in block.items()}
    return list(inner.values()) if inner and all(name.isdecimal() for name in inner) else inner
