"""What `thinkery score` can judge: for each kind the fields of a line, the verdict on one, and the summary of all."""

from __future__ import annotations

import functools
import os
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from thinkery.chat import CLOSE, OPEN, split
from thinkery.core import Completion
from thinkery.errors import InputError
from thinkery.evals import alpaca, arena, codeforces, ifeval
from thinkery.evals.metrics import cons_at_k, pass_at_k, share_estimate
from thinkery.evals.score import Kind, Line, Means, Options, Result, Text
from thinkery.rewards.code_tests import extract_code
from thinkery.rewards.extract import final_answer, last_box
from thinkery.rewards.language import language_of, language_share
from thinkery.rewards.math_answer import shared_pool
from thinkery.sandbox import Asserts, Call, InputOutput, Program, run_tests
from thinkery.sandbox import shared_pool as shared_sandboxes

# ---- mathematics


class MathLine(Line):
    """A reference answer, and an answer or a whole response that ends in one."""

    gold: Text
    answer: Text


class SampleLine(Line):
    """Several responses to one question."""

    id: Any = None
    gold: Text
    responses: list[Text] = Field(min_length=1)


def judge_math(line: MathLine) -> Result:
    """Whether an answer is right; None where it could not be decided, which is not the same as wrong."""
    correct, reason, _ = _grade(line.gold, line.answer)
    return {"correct": correct, "reason": reason}


def judge_samples(line: SampleLine) -> Result:
    """How often the question was answered rightly; ungraded responses are left out, and k counts the others."""
    graded = [_grade(line.gold, response) for response in line.responses]
    votes = [(answer, correct) for correct, _, answer in graded if correct is not None]
    found: Result = {"id": line.id, "k": len(votes), "right": sum(correct for _, correct in votes)}
    if not votes:
        return found | {"pass@1": None, "cons@k": None, "pass@k": None}
    return found | {
        "pass@1": found["right"] / len(votes),
        "cons@k": cons_at_k(votes),
        "pass@k": pass_at_k(len(votes), found["right"], len(votes)),
    }


class Samples:
    """pass@1, cons@k and pass@k: means over questions with 95 % intervals.

    Where answers tie for the most votes, cons@k is what a random choice among them would earn.
    """

    METRICS = ("pass@1", "cons@k", "pass@k")

    def __init__(self) -> None:
        self._values = {name: array("d") for name in self.METRICS}
        self._attempts: Counter[int] = Counter()
        self._ungraded = 0

    def add(self, line: SampleLine, result: Result) -> None:
        """Take in one question."""
        self._ungraded += len(line.responses) - result["k"]
        self._attempts[len(line.responses)] += 1
        if result["k"]:
            for name in self.METRICS:
                self._values[name].append(result[name])

    def summary(self) -> Result:
        """The means, their intervals, k where all questions share it, and the ungraded responses."""
        k = next(iter(self._attempts)) if len(self._attempts) == 1 else None
        graded = {name: share_estimate(values, k or 1) for name, values in self._values.items() if values}
        return {
            **{name: graded[name]["value"] if name in graded else None for name in self.METRICS},
            "intervals": {name: [one["low"], one["high"]] for name, one in graded.items()},
            "k": k,
            "n": self._attempts.total(),
            "ungraded": self._ungraded,
        }


def _grade(gold: str, text: str) -> tuple[bool | None, str, str | None]:
    """(right, why, the answer found) for a response."""
    answer = stated_answer(text)
    if answer is None:
        return False, "no answer", None
    score = shared_pool().grade([(last_box(gold) or gold, answer)])[0]
    return None if score.value is None else score.value >= 1, score.reason, answer


def stated_answer(text: str) -> str | None:
    """The last answer tag or box behind the thought; without either, everything behind it is the answer."""
    parts = split(text, opened=CLOSE in text and not text.lstrip().startswith(OPEN))
    if any(mark in parts.answer for mark in ("<answer>", "\\boxed", "\\fbox")):
        return final_answer(Completion(text, thought=parts.thought, answer=parts.answer, closed=parts.closed))
    return parts.answer.strip() or None


# ---- code


class StdinTest(Line):
    """What a program reads, and what it must write."""

    stdin: str
    stdout: str


class CodeLine(Line):
    """A Python program with tests: what it must print, or source with assertions about it (HumanEval, MBPP)."""

    program: str
    tests: list[StdinTest] = []
    test: str = ""
    entry_point: str = ""


class OutputLine(Line):
    """What a model wrote."""

    output: str


def judge_code(line: CodeLine, sandbox: Literal["bubblewrap", "process"]) -> Result:
    """Whether the program passes all its tests; `verdict` is pass, wrong, error or timeout."""
    tests: list[InputOutput | Call | Asserts] = [InputOutput(test.stdin, test.stdout) for test in line.tests]
    if line.test:
        tests.append(Asserts(line.test, line.entry_point))
    found = run_tests(Program(line.program), tests, shared_sandboxes(sandbox))
    return {"passed": found.verdict == "pass", "verdict": found.verdict, "detail": found.detail}


def judge_extraction(line: OutputLine) -> Result:
    """The program that is graded: the last fenced block behind the thought, None where there is none."""
    return {"code": extract_code(line.output)}


class Extracted:
    """In how many outputs a program was found."""

    def __init__(self) -> None:
        self._found = self._lines = 0

    def add(self, line: OutputLine, result: Result) -> None:
        """Take in one output."""
        self._found += result["code"] is not None
        self._lines += 1

    def summary(self) -> Result:
        """How many have a program, of `n`."""
        return {"found": self._found, "n": self._lines}


# ---- instructions and languages


class IfevalLine(Line):
    """A response to a prompt of IFEval, as its published files have them."""

    prompt: str
    response: str
    instruction_id_list: list[str] = Field(min_length=1)
    kwargs: list[dict[str, Any]]


class LanguageLine(Line):
    """A thought, and the question whose language it should have where `target` names none."""

    question: str
    thought: str
    target: str | None = None


def judge_ifeval(line: IfevalLine) -> Result:
    """For each instruction whether it was followed, strictly and leniently."""
    found = ifeval.judge(line.prompt, line.response, line.instruction_id_list, line.kwargs)
    return {"strict": list(found.strict), "loose": list(found.loose)}


class Followed:
    """IFEval's four accuracies, from 0 to 1: of whole prompts and of instructions, strict and loose."""

    def __init__(self) -> None:
        self._right: Counter[str] = Counter()
        self._prompts = self._instructions = 0

    def add(self, line: IfevalLine, result: Result) -> None:
        """Take in one response."""
        self._prompts += 1
        self._instructions += len(result["strict"])
        for name in ("strict", "loose"):
            self._right[f"prompt_{name}"] += all(result[name])
            self._right[f"instruction_{name}"] += sum(result[name])

    def summary(self) -> Result:
        """The accuracies, over `n` prompts."""
        totals = {"prompt": self._prompts, "instruction": self._instructions}
        found = {
            f"{unit}_{name}": self._right[f"{unit}_{name}"] / total if total else None
            for unit, total in totals.items()
            for name in ("strict", "loose")
        }
        return {**found, "n": self._prompts, "instructions": self._instructions}


def judge_language(line: LanguageLine) -> Result:
    """The share of the thought's words in the wanted language; None where there are no words, or no language."""
    target = line.target or language_of(line.question)
    return {"share": None if target is None else language_share(line.thought, target), "target": target}


# ---- AlpacaEval and Arena-Hard


class AlpacaLine(Line):
    """A judged pair of AlpacaEval; `output_1` is the baseline's, and a preference of null was not given."""

    index: int
    preference: float | None
    output_1: str
    output_2: str


class AlpacaJudgeLine(Line):
    """The first token of AlpacaEval's weighted judge."""

    top_logprobs: dict[str, float] | list[dict[str, Any]]
    is_switched: bool = False


class ArenaLine(Line):
    """A battle: `winner` is model_a, model_b, tie, or a verdict from A>>B to B>>A."""

    model_a: str
    model_b: str
    winner: str
    conv_metadata: dict[str, Any] | None = None


class VerdictLine(Line):
    """What a judge of Arena-Hard wrote."""

    text: str


def judge_alpaca(line: AlpacaLine) -> Result:
    """How far the model won, from 0 to 1."""
    return {"win": None if line.preference is None else alpaca.share_won(line.preference)}


class AlpacaEval:
    """Win rates of AlpacaEval 2; the length-controlled one needs its reference data, which the summary names."""

    def __init__(self) -> None:
        self._judgements = alpaca.Judgements()

    def add(self, line: AlpacaLine, result: Result) -> None:
        """Take in one judged pair."""
        self._judgements.add(line.index, result["win"], len(line.output_1), len(line.output_2))

    def summary(self) -> Result:
        """All rates in percent; `lc_data` is "official", "reconstructed", or says what is missing."""
        plain = self._judgements.plain()
        try:
            reference = alpaca.load_reference()
        except InputError as problem:
            return {**plain, "lc_win_rate": None, "lc_standard_error": None, "lc_data": str(problem)}
        return {**plain, **self._judgements.length_controlled(reference), "lc_data": reference.source}


def judge_alpaca_judge(line: AlpacaJudgeLine) -> Result:
    """The preference between 1 (baseline) and 2 (model); None where the judge named neither."""
    try:
        return {"preference": alpaca.judged_preference(line.top_logprobs, line.is_switched)}
    except (KeyError, TypeError) as problem:
        raise ValueError("top_logprobs: every entry needs a token and a logprob") from problem


def judge_battle(line: ArenaLine) -> Result:
    """What the battle is worth to model_a, and how many it counts as."""
    won, times = arena.outcome(line.winner)
    return {"won": won, "battles": times}


class ArenaHard:
    """Arena-Hard: every model's chance against the baseline."""

    def __init__(self, options: Options) -> None:
        self._battles, self._baseline = arena.Battles(options.style), options.baseline

    def add(self, line: ArenaLine, result: Result) -> None:
        """Take in one battle."""
        self._battles.add(line.model_a, line.model_b, line.winner, line.conv_metadata)

    def summary(self) -> Result:
        """By model, best first: score, low and high in percent."""
        if not self._battles:
            return {}
        try:
            return {model: asdict(one) for model, one in self._battles.standings(self._baseline).items()}
        except ValueError as problem:
            raise InputError(str(problem), hint="--baseline MODEL") from problem


def judge_verdict(line: VerdictLine) -> Result:
    """The verdict, or None where the judge gave none or contradicted itself."""
    return {"verdict": arena.verdict(line.text)}


class Verdicts:
    """How often each verdict was given."""

    def __init__(self) -> None:
        self._counts: Counter[str | None] = Counter()

    def add(self, line: VerdictLine, result: Result) -> None:
        """Take in one."""
        self._counts[result["verdict"]] += 1

    def summary(self) -> Result:
        """The counts by verdict; `none` are the replies without one."""
        given = {verdict: count for verdict, count in self._counts.most_common() if verdict is not None}
        return {"verdicts": given, "none": self._counts[None], "n": self._counts.total()}


# ---- contests and draws


class Participant(Line):
    """A row of a contest's standings."""

    points: float
    penalty: float
    rating: float


class CodeforcesLine(Line):
    """A contest's standings, and what would have been scored in it."""

    standings: list[Participant]
    points: float
    penalty: float


class PassLine(Line):
    """n attempts of which c are right."""

    n: int
    c: int
    k: int


def judge_codeforces(line: CodeforcesLine) -> Result:
    """Rank, rating and percentile of one contest; the percentile is None without the histogram of ratings."""
    rank = codeforces.rank_of(line.points, line.penalty, line.standings)
    rating = codeforces.rating_of(rank, [row.rating for row in line.standings])
    users = codeforces.users_by_rating()
    return {"rank": rank, "rating": rating, "percentile": codeforces.percentile(rating, users) if users else None}


def judge_pass(line: PassLine) -> Result:
    """The chance that k of the n attempts hold a right one."""
    return {"value": pass_at_k(line.n, line.c, line.k)}


CORES = os.cpu_count() or 1
KINDS: dict[str, Callable[[Options], Kind]] = {
    "math": lambda options: Kind(MathLine, judge_math, Means(accuracy="correct"), CORES),
    "samples": lambda options: Kind(SampleLine, judge_samples, Samples(), CORES),
    "code": lambda options: Kind(
        CodeLine, functools.partial(judge_code, sandbox=options.sandbox), Means(passed="passed"), CORES
    ),
    "extract-code": lambda options: Kind(OutputLine, judge_extraction, Extracted()),
    "ifeval": lambda options: Kind(IfevalLine, judge_ifeval, Followed()),
    "alpaca-eval": lambda options: Kind(AlpacaLine, judge_alpaca, AlpacaEval()),
    "alpaca-judge": lambda options: Kind(AlpacaJudgeLine, judge_alpaca_judge, Means(preference="preference")),
    "arena-hard": lambda options: Kind(ArenaLine, judge_battle, ArenaHard(options)),
    "arena-verdict": lambda options: Kind(VerdictLine, judge_verdict, Verdicts()),
    "codeforces": lambda options: Kind(CodeforcesLine, judge_codeforces, Means(rating="rating")),
    "pass-at-k": lambda options: Kind(PassLine, judge_pass, Means(value="value")),
    "language": lambda options: Kind(LanguageLine, judge_language, Means(share="share")),
}
"""Every kind, by the name that `thinkery score` takes."""
