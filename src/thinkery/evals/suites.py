"""Public benchmarks by name, each with the protocol that R1 was evaluated by (v2 §D.1).

    suite = SUITES["aime2024"]
    benchmark = suite.benchmark("aime2024", seed=0)          # 30 problems, k = 64, temperature 0.6, top-p 0.95
    evaluate(engine, benchmark, seed=0)

No examples and no system prompt are given, and nothing is decoded greedily; a question ends with the words that say
how to answer. k is the paper's where it names one, else 4. The questions come from THINKERY_DATA, or from a file
of the user's own where a benchmark is not public here (GPQA, LiveCodeBench).
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thinkery.core import Completion, Sampling, Task
from thinkery.errors import InputError, UsageError
from thinkery.evals.benchmark import Benchmark
from thinkery.evals.ifeval import followed_share, follows_all
from thinkery.evals.measure import Extract
from thinkery.evals.programs import code_contests, humaneval, livecodebench, mbpp
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.code_tests import code_tests
from thinkery.rewards.extract import final_answer
from thinkery.rewards.language import consistency
from thinkery.rewards.rubric import Rubric
from thinkery.tasks import public
from thinkery.tasks.fields import with_choices
from thinkery.tasks.files import read_rows

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
LETTER = (
    "Answer the multiple choice question. The last line of your response should be of the form 'Answer: $LETTER' "
    "(without quotes), where LETTER is one of the options. Think step by step before answering."
)
PROTOCOL = Sampling(temperature=0.6, top_p=0.95, max_tokens=32768)


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark that can be loaded: where its questions come from, how they are put, and how often each is asked."""

    about: str
    load: Callable[[Path | None], Iterator[Task]]
    """The questions; the argument is the user's file, where one is given."""
    samples: int = 4
    rubric: Callable[[], Rubric] = lambda: Rubric(accuracy=accuracy, language=consistency)
    """Made when needed: its judges may start processes."""
    extract: Extract = final_answer
    """Finds the answer that votes in cons@k."""
    needs_file: bool = False

    def benchmark(
        self,
        name: str,
        *,
        seed: int,
        file: Path | None = None,
        limit: int | None = None,
        samples: int | None = None,
        sampling: Sampling = PROTOCOL,
    ) -> Benchmark:
        """The benchmark by the protocol, unless a smaller `limit`, other `samples` or another sampling are asked for.

        UsageError where a file of one's own is needed and none is given, InputError where a file is missing or bad.
        """
        if self.needs_file and file is None:
            raise UsageError(f"{name} is not among the public data", hint="--file with your own copy of it")
        tasks = list(self.load(file))
        if limit is not None and limit < len(tasks):
            drawn = sorted(random.Random(f"suite/{seed}").sample(range(len(tasks)), limit))
            tasks = [tasks[i] for i in drawn]
        return Benchmark(name, tasks, self.rubric(), sampling, samples or self.samples, self.extract)


def whole_answer(completion: Completion, kind: str) -> str | None:
    """The answer as it stands: what votes where a response is prose."""
    return completion.answer.strip() or None


# ---- the questions


def _ending(tasks: Callable[[str], Iterator[Task]], words: str) -> Callable[[Path | None], Iterator[Task]]:
    """The test questions of a public set, each followed by how to answer."""
    return lambda file: (replace(task, prompt=f"{task.prompt}\n{words}") for task in tasks("test"))


def _lettered(tasks: Callable[[str], Iterator[Task]]) -> Callable[[Path | None], Iterator[Task]]:
    """The test questions of a public set with options, each after how to answer."""
    return lambda file: (replace(task, prompt=f"{LETTER}\n\n{task.prompt}") for task in tasks("test"))


def _ifeval(file: Path | None) -> Iterator[Task]:
    """The 541 prompts of IFEval; their demands are in `info`."""
    for _, row in read_rows(file or public.public_file("ifeval/input_data.jsonl.gz")):
        info = {name: row[name] for name in ("instruction_id_list", "kwargs")}
        yield Task(f"ifeval/{row['key']}", row["prompt"], "general", None, None, "ifeval", info=info)


def _gpqa(file: Path | None) -> Iterator[Task]:
    """GPQA's published table; the options of a question are shuffled by a seed of its own, so always alike."""
    assert file
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        for i, row in enumerate(rows):
            yield _gpqa_task(i, row["Question"].strip(), [row[name].strip() for name in GPQA_OPTIONS])
    except KeyError as problem:
        hint = "the published gpqa_diamond.csv has Question, Correct Answer and Incorrect Answer 1 to 3"
        raise InputError(f"no column {problem}", where=str(file), hint=hint) from problem


GPQA_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def _gpqa_task(i: int, question: str, options: Sequence[str]) -> Task:
    order = random.Random(f"gpqa/{question}").sample(range(len(options)), len(options))
    prompt = f"{LETTER}\n\n{with_choices(question, [options[o] for o in order])}"
    return Task(f"gpqa/{i}", prompt, "choice", "ABCD"[order.index(0)], "en", "gpqa")


def _ifeval_rubric() -> Rubric:
    return Rubric(accuracy=follows_all, instructions=followed_share)


def _code_rubric() -> Rubric:
    return Rubric(accuracy=code_tests)


SUITES: dict[str, Suite] = {
    "aime2024": Suite("AIME 2024: 30 competition problems", _ending(public.aime2024, BOXED), samples=64),
    "math500": Suite("MATH-500: competition problems of five levels", _ending(public.math500, BOXED), samples=16),
    "gsm8k": Suite("GSM8K: 1,319 grade-school word problems", _ending(public.gsm8k, BOXED)),
    "mmlu": Suite("MMLU: 14,042 questions with options over 57 subjects", _lettered(public.mmlu)),
    "gpqa": Suite("GPQA Diamond: your copy of gpqa_diamond.csv", _gpqa, samples=64, needs_file=True),
    "ifeval": Suite(
        "IFEval: 541 prompts with checkable instructions; accuracy is prompt-level strict",
        _ifeval,
        rubric=_ifeval_rubric,
        extract=whole_answer,
    ),
    "humaneval": Suite("HumanEval: 164 functions", humaneval, rubric=_code_rubric, extract=whole_answer),
    "mbpp": Suite("MBPP: 500 short functions", mbpp, rubric=_code_rubric, extract=whole_answer),
    "codecontests": Suite(
        "CodeContests: 165 contest problems", code_contests, rubric=_code_rubric, extract=whole_answer
    ),
    "livecodebench": Suite(
        "LiveCodeBench: your copy of a release",
        livecodebench,
        samples=8,
        rubric=_code_rubric,
        extract=whole_answer,
        needs_file=True,
    ),
}
"""Every suite that `thinkery eval --suite` takes."""
