"""What an evaluation asks: a suite or a source, and how. Kept beside the answers, so that it can be loaded again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinkery.core import Sampling
from thinkery.errors import UsageError
from thinkery.evals.benchmark import Benchmark
from thinkery.evals.sensitivity import under_templates
from thinkery.evals.suites import SUITES
from thinkery.pipeline.artifact import content_hash, task_to_row
from thinkery.pipeline.files import hash_folder
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.custom import load_reward, reward_hash
from thinkery.rewards.rubric import Rubric
from thinkery.tasks.sources import Source, load_tasks

if TYPE_CHECKING:
    from thinkery.rewards.preference import PreferenceReward

SOURCE_LIMIT, SOURCE_SAMPLES = 400, 4
"""Questions of a source and attempts at each, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A suite, by its protocol where nothing else is said, or a source of tasks."""

    sampling: Sampling
    seed: int
    suite: str = ""
    source: str = ""
    """`name[:split]`, or a file of one's own."""
    file: str = ""
    """The user's copy of a suite's questions."""
    limit: int | None = None
    samples: int | None = None
    pass_at: tuple[int, ...] = ()
    templates: tuple[str, ...] = ()
    """The words that every question is put in, one after the other: prompt sensitivity."""
    reward: str = ""
    """`file.py:name` of a reward of one's own, for a source."""
    safety_model: str = ""
    """The folder of a point-wise safety model, for a suite that asks one."""

    @property
    def name(self) -> str:
        """What the evaluation is called."""
        return self.suite or self.source

    def benchmark(self) -> Benchmark:
        """The benchmark with its questions; UsageError for what does not exist."""
        loaded = self._suite() if self.suite else self._source()
        if wrong := [k for k in self.pass_at if not 1 < k < loaded.samples]:
            what = f"pass@{wrong[0]} needs more than {wrong[0]} attempts, and pass@1 is there anyway"
            raise UsageError(what, found=f"{loaded.samples} attempts of {self.name}", hint="-k with a larger number")
        loaded = replace(loaded, pass_at=self.pass_at)
        return under_templates(loaded, self.templates) if self.templates else loaded

    def _suite(self) -> Benchmark:
        if self.suite not in SUITES:
            raise UsageError("no such suite", where="--suite", found=self.suite, hint=f"one of {', '.join(SUITES)}")
        return SUITES[self.suite].benchmark(
            self.suite,
            seed=self.seed,
            file=Path(self.file) if self.file else None,
            limit=self.limit,
            samples=self.samples,
            sampling=self.sampling,
            safety_model=self._safety_model(),
        )

    def _safety_model(self) -> PreferenceReward | None:
        """The safety model, reading answers and thoughts."""
        if not self.safety_model:
            return None
        from thinkery.rewards.preference import PreferenceReward

        return PreferenceReward(Path(self.safety_model), reads="all")

    def _source(self) -> Benchmark:
        """Tasks of the test split, unless another is named, judged by the rule for their kind."""
        limit = self.limit or SOURCE_LIMIT
        if Path(self.source).is_file():
            source = Source(source="jsonl", path=self.source, split="test", limit=limit)
        else:
            kind, _, split = self.source.partition(":")
            source = Source(source=kind, split=split or "test", limit=limit)
        own = {"own": load_reward(self.reward)} if self.reward else {}
        tasks = load_tasks([source], seed=self.seed, purpose="exam")
        return Benchmark(
            self.source, tasks, Rubric(accuracy=accuracy, **own), self.sampling, self.samples or SOURCE_SAMPLES
        )

    def as_data(self, benchmark: Benchmark) -> dict[str, Any]:
        """Everything that decides the answers and their scores, as JSON; questions, reward and safety model by hash."""
        settings = asdict(self) | {
            "samples": benchmark.samples,
            "pass_at": list(self.pass_at),
            "templates": list(self.templates),
        }
        hashed = {"questions": questions_hash(benchmark)}
        if self.reward:
            hashed["reward_hash"] = reward_hash(self.reward)
        if self.safety_model:
            hashed["safety_model_hash"] = content_hash(hash_folder(Path(self.safety_model)))
        return settings | hashed


def read_asked(data: Mapping[str, Any]) -> Asked:
    """What `as_data` wrote."""
    sampling = Sampling(**data["sampling"] | {"stop": tuple(data["sampling"]["stop"])})
    known = {
        name: data[name] for name in ("seed", "suite", "source", "file", "limit", "samples", "reward", "safety_model")
    }
    return Asked(sampling, **known, pass_at=tuple(data["pass_at"]), templates=tuple(data["templates"]))


def questions_hash(benchmark: Benchmark) -> str:
    """One hash over everything that the tasks are."""
    found = hashlib.sha256()
    for task in benchmark.tasks:
        found.update(json.dumps(task_to_row(task), sort_keys=True, default=str).encode())
    return found.hexdigest()
