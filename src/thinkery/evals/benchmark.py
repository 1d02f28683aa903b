"""A benchmark is tasks, a rubric and a way of sampling; `evaluate` asks an engine and returns estimates.

    exam = Benchmark("gsm8k", tasks, Rubric(accuracy=accuracy, format=thinks), samples=4)
    evaluate(engine, exam, seed=0)["pass@1"]      # {"value": 0.41, "low": 0.36, "high": 0.46, "n": 400}

R1 v2 §D.1 samples k times at temperature 0.6 and top-p 0.95 and reports the mean; greedy decoding repeats itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from thinkery.core import Group, Sampling, Task
from thinkery.engine.base import Engine
from thinkery.evals.measure import Extract, measure
from thinkery.evals.metrics import Estimate
from thinkery.rewards.extract import final_answer
from thinkery.rewards.rubric import Rubric
from thinkery.rollout import rollouts


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is asked, how often, and how it is judged; the part of the rubric called `accuracy` says what is right."""

    name: str
    tasks: Sequence[Task]
    rubric: Rubric
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.6, top_p=0.95))
    samples: int = 4
    extract: Extract = final_answer
    """Finds the answer that votes in cons@k; `bare_answer` where the rubric uses `lenient_accuracy`."""


def evaluate(
    engine: Engine, benchmark: Benchmark, *, seed: int, on_group: Callable[[Group], None] | None = None
) -> dict[str, Estimate]:
    """Ask every task `samples` times; `on_group` gets each judged group as it finishes."""
    b = benchmark
    groups = []
    for group in rollouts(engine, b.tasks, b.sampling, b.rubric, samples=b.samples, seed=seed):
        groups.append(group)
        if on_group:
            on_group(group)
    return measure(groups, extract=b.extract, answer_length=token_counter(engine))


def token_counter(engine: Engine) -> Callable[[str], int] | None:
    """Counts tokens as the engine's model does; None for a remote engine, which has no tokenizer to count with."""
    tokenizer = getattr(engine, "tokenizer", None)
    return None if tokenizer is None else lambda text: len(tokenizer.encode(text))
