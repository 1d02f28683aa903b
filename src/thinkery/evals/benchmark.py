"""A benchmark is tasks, a rubric and a way of sampling; `evaluate` asks an engine and returns estimates.

    exam = Benchmark("gsm8k", tasks, Rubric(accuracy=accuracy, format=thinks), samples=4)
    evaluate(engine, exam, seed=0)["pass@1"]      # {"value": 0.41, "low": 0.36, "high": 0.46, "n": 400}

R1 v2 §D.1 samples k times at temperature 0.6 and top-p 0.95 and reports the mean; greedy decoding repeats itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from thinkery.core import Group, Reward, Sampling, Task
from thinkery.engine.base import Engine
from thinkery.errors import UsageError
from thinkery.evals.guesses import Guesses
from thinkery.evals.measure import Extract, Figures, Tally, count_answers, metric_names
from thinkery.evals.metrics import Estimate
from thinkery.rewards.extract import final_answer
from thinkery.rewards.rubric import Part, Rubric
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
    pass_at: tuple[int, ...] = ()
    """Further k of pass@k, smaller than `samples`."""
    judged: Mapping[str, Callable[[Engine], Reward | Part]] = field(default_factory=dict)
    """Rewards that another model gives, by name: each is made from that model's engine."""
    figures: tuple[Callable[[], Figures], ...] = ()
    """What else is worked out from the judged groups; each is made anew for every measurement."""

    def __post_init__(self) -> None:
        names = Counter(self.metrics())
        if taken := [name for name, count in names.items() if count > 1]:
            hint = "call the reward otherwise"
            raise UsageError("two metrics have one name", where=self.name, found=", ".join(taken), hint=hint)

    def full_rubric(self, judge: Engine | None) -> Rubric:
        """The rubric with what the judge adds; UsageError where one is needed and none is given."""
        if self.judged and judge is None:
            raise UsageError(f"{self.name} is judged by another model", hint="name it with --judge or --judge-url")
        if not self.judged:
            return self.rubric
        return Rubric(**self.rubric.parts, **{name: make(judge) for name, make in self.judged.items() if judge})

    def metrics(self) -> list[str]:
        """Every metric that an evaluation may have."""
        rewards = [*self.rubric.parts, *self.judged]
        own = [name for make in self.figures for name in make().names]
        return [*metric_names(self.tasks, rewards, self.samples, self.pass_at), *own]


class Measurement:
    """The numbers of a benchmark, from its groups as they come in: what every benchmark has, and its own figures."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._tally = Tally(extract=benchmark.extract, pass_at=benchmark.pass_at)
        self._figures: list[Figures] = [Guesses(benchmark.extract), *(make() for make in benchmark.figures)]

    def add(self, group: Group, answer_tokens: Sequence[int] | None = None) -> None:
        """Take in one question, with the tokens of each attempt's answer where they are known."""
        self._tally.add(group, answer_tokens)
        for figures in self._figures:
            figures.add(group)

    def estimates(self) -> dict[str, Estimate]:
        """Every number by name."""
        found = self._tally.estimates()
        for figures in self._figures if found else ():
            found |= figures.estimates()
        return found

    def notes(self) -> list[str]:
        """What a reader of the numbers must know."""
        return [note for figures in self._figures for note in figures.notes()]


def evaluate(
    engine: Engine,
    benchmark: Benchmark,
    *,
    seed: int,
    judge: Engine | None = None,
    on_group: Callable[[Group], None] | None = None,
) -> dict[str, Estimate]:
    """Ask every task `samples` times; `on_group` gets each judged group as it finishes."""
    b, found, count = benchmark, Measurement(benchmark), token_counter(engine)
    for group in rollouts(engine, b.tasks, b.sampling, b.full_rubric(judge), samples=b.samples, seed=seed):
        found.add(group, count_answers(group, count))
        if on_group:
            on_group(group)
    return found.estimates()


def token_counter(engine: Engine) -> Callable[[str], int] | None:
    """Counts tokens as the engine's model does; None for a remote engine, which has no tokenizer to count with."""
    tokenizer = getattr(engine, "tokenizer", None)
    return None if tokenizer is None else lambda text: len(tokenizer.encode(text))
