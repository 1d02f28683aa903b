"""Public benchmarks by name, each with the protocol that R1 was evaluated by (v2 §D.1).

    suite = SUITES["aime2024"]
    benchmark = suite.benchmark("aime2024", seed=0)          # 30 problems, k = 64, temperature 0.6, top-p 0.95
    evaluate(engine, benchmark, seed=0)

No examples and no system prompt are given, and nothing is decoded greedily; a question ends with the words that say
how to answer. k is the paper's where it names one, else 4. The questions come from a file of the user's own where one
is given, from THINKERY_DATA where that is set, else from the Hugging Face hub.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinkery.core import Completion, Reward, Sampling, Task
from thinkery.engine.base import Engine
from thinkery.errors import InputError, UsageError
from thinkery.evals.benchmark import Benchmark
from thinkery.evals.bias import Bias, bias_rubric, both_sides
from thinkery.evals.contests import Rating, contests
from thinkery.evals.duels import AlpacaJudge, ArenaJudge, ArenaScore, LengthControlled, alpaca_eval, arena_hard
from thinkery.evals.frames import frames, frames_judge
from thinkery.evals.ifeval import followed_share, follows_all
from thinkery.evals.measure import Extract, Figures
from thinkery.evals.programs import code_contests, humaneval, livecodebench
from thinkery.evals.safety import SAFETY_JUDGES, ScoredSafe, safety_rubric, safety_tasks
from thinkery.rewards.accuracy import accuracy
from thinkery.rewards.code_tests import code_tests
from thinkery.rewards.extract import final_answer
from thinkery.rewards.language import consistency
from thinkery.rewards.rubric import Part, Rubric
from thinkery.tasks import public
from thinkery.tasks.counterfactual import counterfactuals
from thinkery.tasks.fields import with_choices
from thinkery.tasks.files import Place, read_rows
from thinkery.tasks.outside import hub_rows
from thinkery.tasks.sources import Source, load_tasks

if TYPE_CHECKING:
    from thinkery.rewards.preference import PreferenceReward

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
    judged: Mapping[str, Callable[[Engine], Reward | Part]] = field(default_factory=dict)
    """Rewards that another model gives, by name."""
    figures: tuple[Callable[[], Figures], ...] = ()
    """What is worked out besides."""
    put: Callable[[Sequence[Task]], Sequence[Task]] = lambda tasks: tasks
    """From the questions that were drawn to what is asked, which may be several prompts for each."""
    scored: Callable[[PreferenceReward], Rubric] | None = None
    """The rubric where a safety model is at hand."""

    def benchmark(
        self,
        name: str,
        *,
        seed: int,
        file: Path | None = None,
        limit: int | None = None,
        samples: int | None = None,
        sampling: Sampling = PROTOCOL,
        pass_at: tuple[int, ...] = (),
        safety_model: PreferenceReward | None = None,
    ) -> Benchmark:
        """The benchmark by the protocol, unless a smaller `limit`, other `samples` or another sampling are asked for.

        UsageError where a file of one's own is needed and none is given, or where a safety model is given and none is
        asked. InputError where a file is missing or bad.
        """
        if self.needs_file and file is None:
            raise UsageError(f"{name} is not among the public data", hint="--file with your own copy of it")
        if safety_model and not self.scored:
            raise UsageError(f"{name} asks no safety model", hint="--safety-model is for --suite safety and bias")
        tasks = list(self.load(file))
        if limit is not None and limit < len(tasks):
            drawn = sorted(random.Random(f"suite/{seed}").sample(range(len(tasks)), limit))
            tasks = [tasks[i] for i in drawn]
        return Benchmark(
            name,
            self.put(tasks),
            self.scored(safety_model) if self.scored and safety_model else self.rubric(),
            sampling,
            samples or self.samples,
            self.extract,
            pass_at,
            self.judged,
            self.figures,
        )


def whole_answer(completion: Completion, kind: str) -> str | None:
    """The answer as it stands: what votes where a response is prose."""
    return completion.answer.strip() or None


# ---- the questions

Hub = tuple[str, str, str]
"""A data set of the Hugging Face hub: name, subset, split."""


def rows_of(file: Path | None, name: str, hub: Hub | None = None) -> Iterator[Place]:
    """The rows of the user's file, else of the file `name` of THINKERY_DATA; of the hub where that is not set."""
    if file is not None:
        return csv_rows(file) if file.suffix == ".csv" else read_rows(file)
    if public.data_root() is None and hub is not None:
        return hub_rows(*hub)
    return read_rows(public.public_file(name))


def csv_rows(file: Path) -> Iterator[Place]:
    """The rows of a table with a header."""
    with file.open(encoding="utf-8", newline="") as lines:
        for i, row in enumerate(csv.DictReader(lines), start=1):
            yield f"{file}: row {i}", row


def _from(
    tasks: Callable[[Iterator[Place]], Iterator[Task]], name: str = "", hub: Hub | None = None
) -> Callable[[Path | None], Iterator[Task]]:
    """The questions that `tasks` makes of the rows of a set."""
    return lambda file: tasks(rows_of(file, name, hub))


def _boxed(
    tasks: Callable[[str, Iterable[Place]], Iterator[Task]], name: str, hub: Hub
) -> Callable[[Path | None], Iterator[Task]]:
    """The test problems of a public set, each followed by how to answer."""

    def ending(rows: Iterator[Place]) -> Iterator[Task]:
        return (replace(task, prompt=f"{task.prompt}\n{BOXED}") for task in tasks("test", rows))

    return _from(ending, name, hub)


def _mmlu(rows: Iterator[Place]) -> Iterator[Task]:
    """MMLU's questions, each after how to answer."""
    lettered = ((where, row if "A" in row else _with_letters(row)) for where, row in rows)
    return (replace(task, prompt=f"{LETTER}\n\n{task.prompt}") for task in public.mmlu("test", lettered))


def _with_letters(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the hub's copy, which has its options in a list and the answer by number."""
    return {**row, **dict(zip("ABCD", row["choices"], strict=True)), "answer": "ABCD"[row["answer"]]}


def _ifeval(rows: Iterator[Place]) -> Iterator[Task]:
    """The 541 prompts of IFEval; their demands are in `info`."""
    for _, row in rows:
        info = {name: row[name] for name in ("instruction_id_list", "kwargs")}
        yield Task(f"ifeval/{row['key']}", row["prompt"], "general", None, None, "ifeval", info=info)


GPQA_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def _gpqa(rows: Iterator[Place]) -> Iterator[Task]:
    """GPQA's published table; the options of a question are shuffled by a seed of its own, so always alike."""
    for i, (where, row) in enumerate(rows):
        try:
            yield _gpqa_task(i, row["Question"].strip(), [row[name].strip() for name in GPQA_OPTIONS])
        except KeyError as problem:
            hint = "the published gpqa_diamond.csv has Question, Correct Answer and Incorrect Answer 1 to 3"
            raise InputError(f"no column {problem}", where=where, hint=hint) from problem


def _gpqa_task(i: int, question: str, options: Sequence[str]) -> Task:
    order = random.Random(f"gpqa/{question}").sample(range(len(options)), len(options))
    prompt = f"{LETTER}\n\n{with_choices(question, [options[o] for o in order])}"
    return Task(f"gpqa/{i}", prompt, "choice", "ABCD"[order.index(0)], "en", "gpqa")


def _arena_hard(file: Path | None) -> Iterator[Task]:
    """Arena-Hard's prompts, or those of the user's file, with the baseline's answers from THINKERY_DATA."""
    questions = rows_of(file, "arena_hard/question_v0.1.jsonl.gz")
    return arena_hard(questions, read_rows(public.public_file("arena_hard/baseline_gpt-4-0314.jsonl.gz")))


def _languages(file: Path | None) -> Iterator[Task]:
    """Questions of the user's file, else problems of the embedded world, which are in English and Chinese."""
    own = Source(source="jsonl", path=str(file), split="test")
    yield from load_tasks([own if file else Source(source="world", split="held-out", limit=400)], purpose="exam")


# ---- how they are judged


def _ifeval_rubric() -> Rubric:
    return Rubric(accuracy=follows_all, instructions=followed_share)


def _code_rubric() -> Rubric:
    return Rubric(accuracy=code_tests)


def _language_rubric() -> Rubric:
    return Rubric(language=consistency, accuracy=Part(accuracy, applies=lambda task: task.gold is not None))


SUITES: dict[str, Suite] = {
    "aime2024": Suite(
        "AIME 2024: 30 competition problems",
        _boxed(public.aime2024, "aime/aime2024.jsonl", ("HuggingFaceH4/aime_2024", "", "train")),
        samples=64,
    ),
    "math500": Suite(
        "MATH-500: competition problems of five levels",
        _boxed(public.math500, "math/math500_test.jsonl.gz", ("HuggingFaceH4/MATH-500", "", "test")),
        samples=16,
    ),
    "gsm8k": Suite(
        "GSM8K: 1,319 grade-school word problems",
        _boxed(public.gsm8k, "gsm8k/test.jsonl.gz", ("openai/gsm8k", "main", "test")),
    ),
    "mmlu": Suite(
        "MMLU: 14,042 questions with options over 57 subjects",
        _from(_mmlu, "mmlu/test.jsonl.gz", ("cais/mmlu", "all", "test")),
    ),
    "gpqa": Suite("GPQA Diamond: your copy of gpqa_diamond.csv", _from(_gpqa), samples=64, needs_file=True),
    "ifeval": Suite(
        "IFEval: 541 prompts with checkable instructions; accuracy is prompt-level strict",
        _from(_ifeval, "ifeval/input_data.jsonl.gz", ("google/IFEval", "", "train")),
        rubric=_ifeval_rubric,
        extract=whole_answer,
    ),
    "humaneval": Suite(
        "HumanEval: 164 functions",
        _from(humaneval, "humaneval/HumanEval.jsonl.gz", ("openai/openai_humaneval", "", "test")),
        rubric=_code_rubric,
        extract=whole_answer,
    ),
    "mbpp": Suite(
        "MBPP: 500 short functions",
        _from(partial(public.mbpp, "test"), "mbpp/mbpp.jsonl.gz", ("google-research-datasets/mbpp", "full", "test")),
        rubric=_code_rubric,
        extract=whole_answer,
    ),
    "codecontests": Suite(
        "CodeContests: 165 contest problems",
        _from(code_contests, "code/code_contests_test.jsonl.gz", ("deepmind/code_contests", "", "test")),
        rubric=_code_rubric,
        extract=whole_answer,
    ),
    "livecodebench": Suite(
        "LiveCodeBench: your copy of a release",
        _from(livecodebench),
        samples=8,
        rubric=_code_rubric,
        extract=whole_answer,
        needs_file=True,
    ),
    "codeforces": Suite(
        "Codeforces: rating and percentile in your file of contests with their standings",
        _from(contests),
        samples=16,
        rubric=_code_rubric,
        extract=whole_answer,
        needs_file=True,
        figures=(Rating,),
    ),
    "frames": Suite(
        "FRAMES: 824 questions of several facts, without the articles; a judge decides TRUE or FALSE",
        _from(frames, "frames/frames.jsonl.gz", ("google/frames-benchmark", "", "test")),
        rubric=Rubric,
        extract=whole_answer,
        judged={"accuracy": frames_judge},
    ),
    "alpaca-eval": Suite(
        "AlpacaEval 2: 805 instructions; a judge compares with GPT-4 Turbo's outputs, length controlled",
        _from(alpaca_eval, "alpaca_eval2/baseline_gpt4_1106_preview.json.gz"),
        samples=1,
        rubric=Rubric,
        judged={"win_rate": AlpacaJudge},
        figures=(LengthControlled,),
    ),
    "arena-hard": Suite(
        "Arena-Hard v0.1: 500 prompts; a judge compares with GPT-4-0314's answers",
        _arena_hard,
        samples=1,
        rubric=Rubric,
        judged={"shown_first": partial(ArenaJudge, place="A"), "shown_second": partial(ArenaJudge, place="B")},
        figures=(ArenaScore,),
    ),
    "language": Suite(
        "language consistency: the share of the thought in the language of the question, of your file or the world",
        _languages,
        rubric=_language_rubric,
    ),
    "safety": Suite(
        "safety: 1,114 red-team prompts, or those of your file, and 199 harmless ones that sound harmful",
        safety_tasks,
        samples=1,
        rubric=safety_rubric,
        extract=whole_answer,
        scored=lambda model: safety_rubric(ScoredSafe(model)),
    ),
    "safety-judged": Suite(
        "the same prompts; a judge decides what is a safe answer and what is a refusal",
        safety_tasks,
        samples=1,
        rubric=Rubric,
        extract=whole_answer,
        judged=SAFETY_JUDGES,
    ),
    "bias": Suite(
        "bias: 288 pairs of prompts that differ in a name, a gender or an origin",
        lambda file: counterfactuals(),
        rubric=bias_rubric,
        extract=whole_answer,
        figures=(Bias,),
        put=both_sides,
        scored=bias_rubric,
    ),
}
"""Every suite that `thinkery eval --suite` takes."""
