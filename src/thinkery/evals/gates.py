"""Gates: the least that a metric must reach, as `pass@1=0.5`, or `gsm8k:pass@1=0.5` for one benchmark of several."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinkery.errors import UsageError
from thinkery.evals.metrics import Estimate


@dataclass(frozen=True, slots=True)
class Gate:
    """The least value of a metric of one benchmark."""

    benchmark: str
    metric: str
    least: float

    def missed_by(self, found: Mapping[str, Estimate]) -> str | None:
        """What is wrong with these numbers; None where they pass. What was not measured does not pass."""
        if self.metric not in found:
            return f"{self.benchmark}: {self.metric} was not measured"
        value = found[self.metric]["value"]
        return None if value >= self.least else f"{self.benchmark}: {self.metric} is {value:.4g}, not {self.least:g}"


def read_gates(texts: Sequence[str], metrics: Mapping[str, Sequence[str]]) -> list[Gate]:
    """The gates that the texts ask for, given the metrics that each benchmark may have; UsageError for any other."""
    return [gate for text in texts for gate in _read(text, metrics)]


def _read(text: str, metrics: Mapping[str, Sequence[str]]) -> list[Gate]:
    """A gate for every benchmark that a text means and that has the metric."""
    metric, _, number = text.rpartition("=")
    try:
        least = float(number)
    except ValueError:
        raise UsageError("not a gate", where="--min", found=text, hint="--min pass@1=0.5") from None
    meant = dict(metrics)
    for name in metrics:
        if metric.startswith(f"{name}:"):
            meant, metric = {name: metrics[name]}, metric.removeprefix(f"{name}:")
            break
    gates = [Gate(name, metric, least) for name, known in meant.items() if metric in known]
    if not gates:
        known = list(dict.fromkeys(name for names in meant.values() for name in names))
        near = difflib.get_close_matches(metric, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"
        raise UsageError("no such metric", where="--min", found=metric, hint=hint)
    return gates
