"""What each page shows, as plain values for its template; nothing here knows HTML."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from thinkery.errors import InputError
from thinkery.evals import paper
from thinkery.evals.compare import EXAM, Sheet
from thinkery.evals.metrics import Estimate
from thinkery.evals.table import cells, columns, is_share, questions
from thinkery.pipeline.artifact import Dataset
from thinkery.pipeline.index import IndexedGroup
from thinkery.pipeline.read import StepRecord
from thinkery.pipeline.step import suggestion
from thinkery.view.curves import curves
from thinkery.view.library import Book, Library, parents
from thinkery.view.samples import FAULTS, level, sample

SHOWN = 60
"""Samples of one page that lists samples of many questions."""
KEPT = 6
"""Rows of a finished data set that its page shows."""
MILLION = 1_000_000

Context = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """A step in the drawing of the pipeline."""

    step: StepRecord
    depth: int
    reads: tuple[str, ...]
    accuracy: Estimate | None
    tokens: float
    flops: float
    cost: float

    @property
    def eta(self) -> float | None:
        """Seconds that are left at the pace so far."""
        done, total = self.step.done, self.step.total
        return self.step.seconds / done * (total - done) if self.step.status == "running" and done else None


def runs_page(library: Library) -> Context:
    """Every run with how far it is."""
    return {"books": [library.open(name) for name in library.folders]}


def pipeline_page(book: Book) -> Context:
    """The graph with its numbers, the attempts, and what rang."""
    results, depths = book.results(), _depths(book)
    nodes = {name: _node(book, step, depths[name], results) for name, step in book.steps.items()}
    shown = {name: node for name, node in nodes.items() if node.step.kind != "Report"}
    return {
        "nodes": nodes,
        "rows": [
            [node for node in shown.values() if node.depth == depth]
            for depth in sorted({n.depth for n in shown.values()})
        ],
        "seconds": sum(node.step.seconds for node in nodes.values()),
        "tokens": sum(node.tokens for node in nodes.values()),
        "flops": sum(node.flops for node in nodes.values()),
        "cost": sum(node.cost for node in nodes.values()),
        "alarms": [event for event in book.events if event["kind"] in ("alarm", "failed")],
        "done": sum(node.step.status == "done" for node in nodes.values()),
    }


def stage_page(book: Book, name: str) -> Context:
    """One step: its curves, what it reads, its settings and alarms."""
    step, artifact = book.step(name), book.artifact(name)
    drawn = curves(book, name)
    last = (book.metrics(name).rows() or [{}])[-1]
    return {
        "step": step,
        "manifest": artifact.manifest if artifact else {},
        "charts": drawn,
        "headline": _headline(last),
        "alarms": book.events_of(name, "alarm", "failed"),
        "preflight": book.events_of(name, "preflight")[-1:],
        "trained": [one for one in book.steps if book.metrics(one).columns()],
        "result": book.results().get(name, {}),
        "reads_it": [other.name for other in book.steps.values() if name in other.inputs.values()],
    }


def questions_page(book: Book, stage: str, number: int, place: int | None) -> Context:
    """One file of attempts: its questions, and all samples of one of them."""
    numbers, groups = book.numbers(stage), book.groups(stage, number)
    place = 0 if place is None else place
    samples = [sample(row) for row in book.index(stage).rows(number, place)] if groups else []
    at = bisect_left(numbers, number)
    return {
        "step": book.step(stage),
        "stage": stage,
        "number": number,
        "numbers": numbers,
        "previous": numbers[at - 1] if at else None,
        "next": numbers[at + 1] if at + 1 < len(numbers) else None,
        "groups": groups,
        "place": place,
        "samples": samples,
        "level": level([one.row for one in samples]),
        "faults": FAULTS,
        "fault_counts": {name: sum(name in one.faults for one in samples) for name in FAULTS},
        "is_exam": book.step(stage).kind != "Model",
    }


def fault_page(book: Book, stage: str, number: int, fault: str) -> Context:
    """The samples of one file that have a fault, whatever the question."""
    if fault not in FAULTS:
        raise InputError(f"there is no filter {fault!r}", hint=suggestion(fault, FAULTS))
    index = book.index(stage)
    found = (
        (place, one)
        for place in range(len(index.groups(number)))
        for one in map(sample, index.rows(number, place))
        if fault in one.faults
    )
    samples = list(islice(found, SHOWN + 1))
    about = {"stage": stage, "number": number, "fault": fault, "faults": FAULTS, "step": book.step(stage)}
    return about | {"samples": samples[:SHOWN], "more": len(samples) > SHOWN}


def question_page(book: Book, task: str) -> Context:
    """One question: every stage's answers to it in exams, and whenever it was asked in training."""
    exams, training = {}, {}
    for stage, numbers in book.asked().items():
        index, shown = book.index(stage), set(numbers)
        asked = [found for found in index.of_task(task) if found[0] in shown]
        if asked and book.step(stage).kind == "Report":
            number, place, group = asked[0]
            exams[stage] = (number, place, group, [sample(row) for row in index.rows(number, place)])
        elif asked:
            training[stage] = asked
    if not exams and not training:
        raise InputError(f"nobody was asked {task!r}", where=book.name)
    first = next(iter(exams.values()))[3][0].row if exams else _first_row(book, training)
    return {"task": task, "first": first, "exams": exams, "training": training, "exam": EXAM, "faults": FAULTS}


def compare_page(book: Book) -> Context:
    """Benchmark × stage, what each stage changed, and the paper's numbers apart."""
    results, sheets = book.results(), book.sheets()
    common = [name for name in columns(results) if sum(name in found for found in results.values()) > len(results) / 2]
    rest = sorted({name for found in results.values() for name in found} - set(common))
    changes = [(before, after, book.change(before, after)) for before, after in _comparisons(book, sheets)]
    return {
        "results": results,
        "metrics": common,
        "cells": cells(results, common),
        "shares": {metric: is_share(metric, results) for metric in common},
        "n": {stage: questions(found) for stage, found in results.items()},
        "details": rest,
        "detail_cells": cells(results, rest),
        "changes": changes,
        "sheets": sheets,
        "parents": parents(book, list(sheets)),
        "paper": paper,
    }


def change_page(book: Book, before: str, after: str) -> Context:
    """Which questions got worse or better between two stages."""
    sheets = book.sheets()
    for stage in (before, after):
        if stage not in sheets:
            raise InputError(f"stage {stage!r} was not examined", where=book.name, hint=suggestion(stage, sheets))
    was, now = sheets[before], sheets[after]
    change = book.change(before, after)
    return {
        "before": before,
        "after": after,
        "change": change,
        "was": was,
        "now": now,
        "moved": _moved(was, now),
        "sheets": sheets,
    }


def data_page(book: Book) -> Context:
    """The funnel of every data set."""
    return {"sets": {name: (made, funnel(made.funnel, len(made))) for name, made in book.datasets().items()}}


def dataset_page(book: Book, name: str) -> Context:
    """One data set: its funnel by source, examples of what was left out and why, and what was kept."""
    made = book.datasets()
    if name not in made:
        raise InputError(f"{name!r} is no finished data set", where=book.name, hint=suggestion(name, made))
    data = made[name]
    dropped: dict[str, list[Mapping[str, Any]]] = {}
    for example in data.dropped():
        dropped.setdefault(example["reason"], []).append(example["row"])
    return {
        "step": book.step(name),
        "data": data,
        "funnel": funnel(data.funnel, len(data)),
        "sources": data.funnel_by_source,
        "dropped": dropped,
        "kept": list(islice(data.rows(), KEPT)),
        "rollouts": book.numbers(name),
    }


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of a funnel."""

    reason: str
    count: int
    share: float
    """Of the largest count."""
    kind: str
    """"kept", "dropped" or "counted"."""


def funnel(counts: Mapping[str, int], rows: int) -> list[Layer]:
    """A data set's counts in the order of the way: what came in, what was left out for which reason, what stayed."""
    named = {reason: n for reason, n in counts.items() if not reason.startswith("spent on")}
    kinds = {reason: _kind(reason) for reason in named}
    if "counted" not in kinds.values() and "dropped" in kinds.values():
        came = sum(n for reason, n in named.items() if kinds[reason] != "counted")
        named, kinds = {"came in": came} | named, {"came in": "counted"} | kinds
    order = {"counted": 0, "dropped": 1, "kept": 2}
    largest = max([*named.values(), rows, 1])
    layers = [Layer(reason, n, n / largest, kinds[reason]) for reason, n in named.items()]
    return sorted(layers, key=lambda one: (order[one.kind], -one.count if one.kind != "counted" else 0))


def _kind(reason: str) -> str:
    if reason.startswith("kept"):
        return "kept"
    return "dropped" if reason.startswith(("dropped", "in the exam", "ungradable")) else "counted"


def _node(book: Book, step: StepRecord, depth: int, results: Mapping[str, Any]) -> Node:
    rows = book.metrics(step.name).rows()
    return Node(
        step=step,
        depth=depth,
        reads=tuple(dict.fromkeys(step.inputs.values())),
        accuracy=results.get(step.name, {}).get("pass@1"),
        tokens=_tokens(rows),
        flops=sum(row.get("perf/flops") or 0 for row in rows),
        cost=_spent(book, step) / MILLION,
    )


def _spent(book: Book, step: StepRecord) -> int:
    """What an endpoint cost on the way, in millionths."""
    made = book.artifact(step.name)
    counts = made.funnel if isinstance(made, Dataset) else {}
    return sum(n for reason, n in counts.items() if reason.startswith("spent on"))


def _tokens(rows: Sequence[Mapping[str, Any]]) -> float:
    """Tokens sampled and learned from, as far as the curves tell."""
    return sum((row.get("perf/tokens_per_s") or 0) * (row.get("time/step") or 0) for row in rows)


def _depths(book: Book) -> dict[str, int]:
    """How many steps lie before each on the longest way."""
    depths: dict[str, int] = {}
    for name, step in book.steps.items():
        depths[name] = 1 + max((depths[read] for read in step.inputs.values()), default=-1)
    return depths


def _headline(last: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """The numbers worth a glance, truncation first: (name, value, filter)."""
    wanted = (
        ("cut at the limit", "completion/truncated", "percent"),
        ("reward", "reward/mean", "number"),
        ("accuracy", "reward/accuracy/mean", "percent"),
        ("tokens", "completion/length_mean", "number"),
        ("no spread", "group/no_spread", "percent"),
        ("entropy", "policy/entropy", "number"),
        ("loss", "optim/loss", "number"),
    )
    found = [(name, last[metric], form) for name, metric, form in wanted if last.get(metric) is not None]
    return found[:-1] if len(found) > 2 and found[-1][0] == "loss" else found


def _comparisons(book: Book, sheets: Mapping[str, Sheet]) -> list[tuple[str, str]]:
    """Pairs worth comparing: each stage with what it started from, and with the last measured one that it came from."""
    order = [stage for stage in sheets if stage in book.steps]
    started, ancestors = parents(book, order), _ancestors(book)
    pairs = []
    for place, stage in enumerate(order):
        before = [one for one in order[:place] if one in ancestors[stage]]
        near = [started.get(stage), before[-1] if before else None]
        pairs += [(one, stage) for one in dict.fromkeys(near) if one]
    return [(before, after) for before, after in pairs if sheets[before].scores.keys() & sheets[after].scores.keys()]


def _ancestors(book: Book) -> dict[str, set[str]]:
    """For each step every step that it reads, however far back."""
    found: dict[str, set[str]] = {}
    for name, step in book.steps.items():
        read = set(step.inputs.values())
        found[name] = read.union(*(found[one] for one in read))
    return found


def _moved(was: Sheet, now: Sheet) -> list[tuple[str, str, float, float]]:
    """Questions whose score changed: (task, prompt, before, after), the greatest loss first."""
    shared = [task for task in was.scores if task in now.scores and was.scores[task] != now.scores[task]]
    rows = [(task, now.prompts[task], was.scores[task], now.scores[task]) for task in shared]
    return sorted(rows, key=lambda row: row[3] - row[2])


def _first_row(book: Book, training: Mapping[str, Sequence[tuple[int, int, IndexedGroup]]]) -> Mapping[str, Any]:
    stage, ((number, place, _), *_) = next(iter(training.items()))
    return book.index(stage).rows(number, place)[0]
