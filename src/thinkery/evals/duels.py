"""Answers against a baseline's, compared by a judge: AlpacaEval 2 and Arena-Hard v0.1, from questions to win rates.

Only what follows the thought is compared (R1 v2 §D.1). Every pair is shown in both orders, and a reply without a
verdict is left out, never guessed. The wording of the prompts is ours, so that figures are comparable with one
another under the same judge, and only roughly with published ones.

AlpacaEval reads the judge's first log-probabilities; endpoints and engines give texts, so here the judge names the
better output at temperature 1, whose expectation is the same. All rates are shares from 0 to 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any, Literal

from thinkery.core import Completion, Group, Message, Sampling, Score, Task, seed_of
from thinkery.engine.base import Engine
from thinkery.errors import InputError
from thinkery.evals.alpaca import Judgements, load_reference
from thinkery.evals.arena import Battles
from thinkery.evals.frames import JUDGING
from thinkery.evals.metrics import Estimate
from thinkery.rewards.ask import ask
from thinkery.rewards.judge import VERDICTS, pairwise_messages, verdict
from thinkery.tasks.files import Place

BASELINE = "gpt-4-0314"
"""Whose answers Arena-Hard v0.1 compares with; AlpacaEval 2's are gpt4_1106_preview's."""
CHOOSING = Sampling(temperature=1.0, max_tokens=4096)

CHOICE = """\
You decide which of two outputs for the same instruction people would prefer. They come from two models, called m and \
M, in no particular order. What counts is how correct, useful and to the point an output is.

Reply with the name of the better model and nothing else: m or M
"""

LABELS = {value: label for label, value in VERDICTS.items()}
"""Verdicts by what they are worth to the answer they are seen from."""
MARKS = {"header": r"^#{1,6}\s", "list": r"^\s*(?:\d+\.|[-*+])\s", "bold": r"\*\*[^*\n]+\*\*|__[^_\n]+__"}
"""What Arena-Hard's style control counts in an answer besides its length."""


# ---- AlpacaEval 2


def alpaca_eval(rows: Iterable[Place]) -> Iterator[Task]:
    """The 805 instructions, each with the baseline's output; rows are those of its `model_outputs.json`."""
    for i, (_, row) in enumerate(rows):
        info = {"index": i, "baseline": row["output"]}
        yield Task(f"alpaca-eval/{i}", row["instruction"], "general", None, "en", "alpaca-eval", info=info)


class AlpacaJudge:
    """A reward: the share of two choices, one in each order, that the answer wins against the baseline's."""

    def __init__(self, engine: Engine, sampling: Sampling = CHOOSING, seed: int = 0) -> None:
        self.engine, self.sampling, self.seed = engine, sampling, seed

    def __call__(self, task: Task, completion: Completion) -> Score:
        return self.batch([(task, completion)])[0]

    def batch(self, pairs: Sequence[tuple[Task, Completion]]) -> list[Score]:
        """One score per pair, in order, all asked at once; ungraded where the judge named neither model twice."""
        shown, seeds = [], []
        for task, completion in pairs:
            answer, baseline = completion.answer, task.info["baseline"]
            shown += [choice_messages(task.prompt, answer, baseline), choice_messages(task.prompt, baseline, answer)]
            seeds += [seed_of(self.seed, 0, task.id + answer, order) for order in (0, 1)]
        replies = ask(self.engine, shown, self.sampling, seeds)
        return [_share_won(*replies[i : i + 2]) for i in range(0, len(replies), 2)]


def choice_messages(instruction: str, first: str, second: str) -> tuple[Message, ...]:
    """The conversation that asks which output is better, m (the first) or M."""
    shown = f"# Instruction\n{instruction}\n\n# Output of m\n{first}\n\n# Output of M\n{second}"
    return Message("system", CHOICE), Message("user", shown)


class LengthControlled:
    """AlpacaEval's length-controlled win rate; nothing where its reference data is not at hand."""

    names = ("lc_win_rate",)

    def __init__(self) -> None:
        self._judgements, self._notes = Judgements(), []

    def add(self, group: Group) -> None:
        """Take in the attempts at one instruction."""
        info = group.task.info
        for rollout in group.rollouts:
            won = rollout.scores["win_rate"].value
            self._judgements.add(info["index"], won, len(info["baseline"]), len(rollout.completion.answer))

    def estimates(self) -> dict[str, Estimate]:
        """The win rate with lengths held equal."""
        try:
            reference = load_reference()
        except InputError as problem:
            self._notes = [f"no length-controlled win rate: {problem.what}, {problem.where}"]
            return {}
        self._notes = [f"length controlled with the {reference.source} reference data"]
        found = self._judgements.length_controlled(reference)
        value, error = found["lc_win_rate"], found["lc_standard_error"]
        if value is None:
            return {}
        low, high = (None, None) if error is None else (value - 1.96 * error, value + 1.96 * error)
        return {"lc_win_rate": _percent(value, low, high, len(self._judgements))}

    def notes(self) -> list[str]:
        """Whose reference data was used, once `estimates` has been called."""
        return self._notes


def _share_won(first: Completion, second: Completion) -> Score:
    """How far the answer won: it was shown as m, then as M."""
    named = [_named(reply) for reply in (first, second)]
    won = [float(name == own) for name, own in zip(named, "mM", strict=True) if name]
    if not won:
        return Score(None, f"the judge named neither output: {second.answer[-200:]!r}")
    return Score(fmean(won), f"shown as m: {named[0]} is better, shown as M: {named[1]} is")


def _named(reply: Completion) -> str | None:
    name = reply.answer.strip(" \t\n\"'`*.")
    return name if name in ("m", "M") else None


# ---- Arena-Hard v0.1


def arena_hard(questions: Iterable[Place], answers: Iterable[Place]) -> Iterator[Task]:
    """The 500 prompts, each with the baseline's answer, joined by `uid`."""
    baseline = {row["uid"]: row["messages"][-1]["content"]["answer"] for _, row in answers}
    for _, row in questions:
        info = {"baseline": baseline[row["uid"]]}
        yield Task(f"arena-hard/{row['uid']}", row["prompt"], "general", None, "en", "arena-hard", info=info)


class ArenaJudge:
    """A reward: the verdict on an answer shown in one place beside the baseline's, from 2 (much better) to -2."""

    def __init__(self, engine: Engine, place: Literal["A", "B"], sampling: Sampling = JUDGING, seed: int = 0) -> None:
        self.engine, self.place, self.sampling, self.seed = engine, place, sampling, seed

    def __call__(self, task: Task, completion: Completion) -> Score:
        return self.batch([(task, completion)])[0]

    def batch(self, pairs: Sequence[tuple[Task, Completion]]) -> list[Score]:
        """One score per pair, in order, all asked at once; ungraded where a reply has no verdict."""
        shown = []
        for task, completion in pairs:
            answers = (completion.answer, task.info["baseline"])
            shown.append(pairwise_messages(task.prompt, *(answers if self.place == "A" else reversed(answers))))
        seeds = [seed_of(self.seed, 0, task.id + completion.text, 0) for task, completion in pairs]
        return [self._score(reply) for reply in ask(self.engine, shown, self.sampling, seeds)]

    def _score(self, reply: Completion) -> Score:
        label = verdict(reply)
        if label is None:
            return Score(None, f"the judge gave no verdict: {reply.answer[-200:]!r}")
        return Score(VERDICTS[label] if self.place == "A" else -VERDICTS[label], f"{label}, shown as {self.place}")


GAMES = ("shown_first", "shown_second")
"""The rewards of Arena-Hard: each pair is judged in both orders."""


class ArenaScore:
    """Arena-Hard's score: the model's chance against the baseline, plain and with style held equal.

    Style is the length in characters and the counts of headers, lists and bold text; the published code counts tokens.
    """

    names = ("win_rate", "style_controlled")

    def __init__(self) -> None:
        self._plain, self._styled, self._questions = Battles(), Battles("both"), 0

    def add(self, group: Group) -> None:
        """Take in the attempts at one prompt."""
        self._questions += 1
        for rollout in group.rollouts:
            style = style_of(rollout.completion.answer, group.task.info["baseline"])
            for value in [rollout.scores[game].value for game in GAMES]:
                if value is not None:
                    self._plain.add("model", BASELINE, LABELS[value])
                    self._styled.add("model", BASELINE, LABELS[value], style)

    def estimates(self) -> dict[str, Estimate]:
        """Both scores with the intervals of 100 bootstrap rounds; nothing where nothing was judged."""
        if not self._plain:
            return {}
        found = {}
        for name, battles in zip(self.names, (self._plain, self._styled), strict=True):
            one = battles.standings(BASELINE)["model"]
            found[name] = _percent(one.score, one.low, one.high, self._questions)
        return found

    def notes(self) -> list[str]:
        """Who the baseline is."""
        return [f"against {BASELINE}, which scores 0.5"]


def style_of(answer: str, baseline: str) -> dict[str, Any]:
    """What the style control compares, a being the answer and b the baseline's."""
    found: dict[str, Any] = {}
    for side, text in (("a", answer), ("b", baseline)):
        found[f"sum_assistant_{side}_tokens"] = len(text)
        for mark, pattern in MARKS.items():
            found[f"{mark}_count_{side}"] = len(re.findall(pattern, text, re.MULTILINE))
    return found


def _percent(value: float, low: float | None, high: float | None, n: int) -> Estimate:
    """An estimate in percent as a share."""
    return Estimate(
        value=value / 100,
        low=None if low is None else max(0.0, low / 100),
        high=None if high is None else min(1.0, high / 100),
        n=n,
    )
