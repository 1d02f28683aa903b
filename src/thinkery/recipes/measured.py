"""Plans that a finished run has taught: `thinkery plan RECIPE --like RUN`.

Arithmetic knows how work grows with the settings, but neither how long this model's texts are nor how fast this
machine is at them; a run of the same graph on the same machine knows both. So of every step that the run has done,

    seconds = measured seconds x planned seconds / seconds planned for the run's own settings

where pauses of the machine are taken out of what was measured, and tokens likewise; memory is what the run held, and
the planned difference. What the run has not done stays as it is planned. The sampled texts must be of about the same
length: another model or template makes another plan.

On another machine, or before there is a run, the lengths alone can be known (`expected_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from statistics import fmean, median
from typing import Any

from thinkery.pipeline.artifact import Dataset
from thinkery.pipeline.read import RunRecord
from thinkery.pipeline.step import Step, ordered
from thinkery.recipes.expected import Expected
from thinkery.recipes.plan import LOOKED_AT, TEMPLATE_TOKENS, Need, Plan, rows_of, token_counter
from thinkery.stages.collect import Collect


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


def expected_of(run: RunRecord, steps: Mapping[str, Step]) -> Expected:
    """How long answers were in what a run has done of this graph, and rows, and which share of the rows was kept, of
    the groups learnt.

    Three digits; shares of 1 are left out. Loads tasks, to count.
    """
    tokens: dict[str, float] = {}
    lengths: dict[str, float] = {}
    kept: dict[str, float] = {}
    learnt: dict[str, float] = {}
    rows: dict[str, int] = {}
    made, count = run.artifacts, token_counter(ordered(steps))
    for step in ordered(steps):
        most = rows_of(step, rows)
        rows[step.name] = most
        if step.name not in made:
            continue
        index = run.index(step.name)
        groups = [group for number in index.numbers() for group in index.groups(number)]
        if said := sum(group.samples * group.tokens for group in groups):  # an endpoint's tokens are not known
            tokens[step.name] = _digits(said / sum(group.samples for group in groups))
        rows_of_groups = (row for row in run.metrics(step.name) if "group/no_spread" in row)
        if useful := [row.get("group/useful", 1 - row["group/no_spread"]) for row in rows_of_groups]:
            learnt[step.name] = _digits(fmean(useful))
        found = made[step.name]
        if most and isinstance(found, Dataset) and len(found) != most:
            rows[step.name], kept[step.name] = len(found), _digits(len(found) / most)
        if isinstance(found, Dataset) and not isinstance(step.config, Collect) and len(found):
            lengths[step.name] = _digits(row_length(found, count))
    return Expected(tokens=tokens, rows=lengths, kept=kept, learnt=learnt)


def row_length(data: Dataset, count: Callable[[str], float]) -> float:
    """The mean tokens of a dataset's conversations with one answer each, by some that lie apart."""
    every = max(1, len(data) // LOOKED_AT)
    return fmean(
        TEMPLATE_TOKENS + sum(count(text) for text in spoken(row)) for row in islice(data.rows(), 0, None, every)
    )  # fmt: skip


def spoken(row: Mapping[str, Any]) -> Iterator[str]:
    """Every text of a row's conversation, of a pair with the chosen answer; of a document its text."""
    if "text" in row:
        yield row["text"]
    for turn in (*row.get("messages", ()), row.get("chosen")):
        if turn:
            yield turn.get("thought") or ""
            yield turn["content"]


def _digits(number: float) -> float:
    return float(f"{number:.3g}")


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
