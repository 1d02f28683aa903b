"""Before training: what do the rewards pay for nonsense, and do they pay for a right answer?

dry_run_gold   a right, well-formed answer must earn full marks; a reward stuck at 0 teaches nothing
lint           empty, copied, repeated, stuffed completions; whatever they earn, training will find
check_gold     tasks whose reference answer no rule can read would be judged by accident
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from thinkery.chat import split
from thinkery.core import Completion, Score, Task
from thinkery.errors import UsageError
from thinkery.rewards.accuracy import Accuracy
from thinkery.rewards.extract import letter, plain
from thinkery.rewards.formula import copied, quoted
from thinkery.rewards.math_answer import MathPool, shared_pool
from thinkery.rewards.rubric import Rubric

_THOUGHTS = {"en": "Let me work through this carefully and check each step.", "zh": "我一步一步地想，再检查每一步。"}
_NUMBERS = range(0, 101)
_LETTERS = "ABCDEFGH"
_DISGUISES = {
    "a formula copied": "{}",
    "a formula copied in brackets": "({})",
    "a formula copied, plus nothing": "0+{}",
    "a formula copied, times one": r"1\cdot\left({}\right)",
}
"""What may be put around a formula of the question, and changes nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe earned on one task; `suspicious` when it was paid for something it did not do, with `why`."""

    probe: str
    task: str
    text: str
    scores: Mapping[str, Score]
    total: float | None
    suspicious: bool = False
    why: str = ""


def dry_run_gold(rubric: Rubric, task: Task, *, opened: bool = False) -> None:
    """Raise a UsageError unless a well-formed right answer to `task` earns full marks from every reward that applies.

    `opened` says that the model's prompt already opens the thought.
    """
    completion = _completion(_well_formed(task, task.gold or "", opened), opened)
    ((scores, _),) = rubric.judge([(task, completion)])
    for name, score in scores.items():
        part = rubric.parts[name]
        if part.weight and (score.value is None or score.value < part.full_marks):
            earned = "ungraded" if score.value is None else f"{score.value:g} of {part.full_marks:g}"
            raise UsageError(
                f"reward {name!r} does not pay for a right answer",
                where=f"task {task.id!r} of {task.source or 'no source'}",
                found=f"{earned}, {score.reason or 'no reason given'}; completion {completion.text!r}",
                hint="check the gold answer, the form the reward expects, and whether the template opens the thought",
            )


def lint(rubric: Rubric, tasks: Sequence[Task], *, opened: bool = False) -> list[Finding]:
    """What every probe earns on every task that has a gold answer, task by task.

    A finding is suspicious when accuracy pays a probe without a right answer, or when a probe earns as much in all
    as a genuine completion does. A right answer without a thought may, where a single reward is all there is.
    """
    return [finding for task in tasks if task.gold for finding in _lint_task(rubric, task, opened)]


def check_gold(tasks: Iterable[Task], pool: MathPool | None = None) -> tuple[list[Task], list[tuple[Task, str]]]:
    """(kept, dropped with reasons): tasks of a kind with a rule stay only if the rule can read their gold answer."""
    tasks = list(tasks)
    golds = [task.gold for task in tasks if task.kind == "math" and task.gold]
    readable = dict(zip(golds, (pool or shared_pool()).gradable(golds), strict=True)) if golds else {}
    kept: list[Task] = []
    dropped: list[tuple[Task, str]] = []
    for task in tasks:
        reason = _gold_problem(task, readable)
        dropped.append((task, reason)) if reason else kept.append(task)
    return kept, dropped


def _lint_task(rubric: Rubric, task: Task, opened: bool) -> list[Finding]:
    gold = task.gold or ""
    genuine = _well_formed(task, gold, opened)
    probes = _probes(task, gold, opened)
    texts = [genuine, *(text for text, _ in probes.values())]
    (_, best), *judged = rubric.judge([(task, _completion(text, opened)) for text in texts])
    findings = []
    for (name, (text, right)), (scores, total) in zip(probes.items(), judged, strict=True):
        why = _suspicion(rubric, scores, total, best, right)
        findings.append(Finding(name, task.id, text, scores, total, bool(why), why))
    return findings


def _probes(task: Task, gold: str, opened: bool) -> dict[str, tuple[str, bool]]:
    """Completions nobody wants to teach: name → (text, whether its final answer is right)."""
    start = "" if opened else "<think>"
    candidates = list(_LETTERS) if task.kind == "choice" else [str(n) for n in _NUMBERS]
    everything = [c for c in candidates if c != gold]
    everything.insert(len(everything) // 2, gold)
    filler = "a" if plain(gold) != "a" else "b"
    formulas = [one for one in quoted(task.prompt) if task.kind == "math" and copied(task.prompt, gold, one)]
    return {
        **{
            name: (_well_formed(task, disguise.replace("{}", formula), opened), False)
            for name, disguise in _DISGUISES.items()
            for formula in formulas[:1]
        },
        "empty": ("", False),
        "format only": (f"{start}</think>{filler}", False),
        "empty tags": (f"{start} </think> <answer></answer>", False),
        "the question copied": (_well_formed(task, task.prompt, opened), plain(task.prompt) == plain(gold)),
        "tags repeated": (f"{start}</think><answer></answer>" + "<think></think><answer></answer>" * 20, False),
        "stuffed with answers": (
            f"{start}{_thought(task)}</think>" + "".join(f"<answer>{c}</answer>" for c in everything),
            False,
        ),
        "stuffed with boxes": (
            f"{start}{_thought(task)}</think>" + "".join(rf"\boxed{{{c}}} " for c in everything),
            False,
        ),
        "every answer in one tag": (_well_formed(task, ", ".join(everything), opened), False),
        "gold in the thought only": (f"{start}<answer>{gold}</answer> \\boxed{{{gold}}}</think>", False),
        "thought never closed": (f"{start}{_thought(task)} <answer>{gold}</answer> \\boxed{{{gold}}}", False),
        "gold without a thought": (f"{start}</think><answer>{gold}</answer>", True),
    }


def _suspicion(
    rubric: Rubric, scores: Mapping[str, Score], total: float | None, best: float | None, right: bool
) -> str:
    """Why a probe's pay is suspicious, "" if it is not."""
    for name, score in scores.items():
        if isinstance(rubric.parts[name].reward, Accuracy) and score.value and not right:
            return f"{name} pays {score.value:g} without a right answer"
    if total is not None and best is not None and total >= best and not (right and len(scores) == 1):
        return f"earns {total:g}, no less than a genuine answer ({best:g})"
    return ""


def _gold_problem(task: Task, readable: Mapping[str, bool]) -> str | None:
    if task.kind not in ("math", "choice", "exact"):
        return None
    if not task.gold or not plain(task.gold):
        return "no gold answer"
    if task.kind == "math" and (plain(task.gold) == "nan" or not readable[task.gold]):
        return "gold cannot be read as mathematics"
    return "gold is not a letter" if task.kind == "choice" and not letter(task.gold) else None


def _well_formed(task: Task, answer: str, opened: bool) -> str:
    return f"{'' if opened else '<think>'}\n{_thought(task)}\n</think>\n<answer>{answer}</answer>"


def _thought(task: Task) -> str:
    """Some thought in the language of the task; the prompt itself where no sentence of that language is at hand."""
    return _THOUGHTS.get(task.language or "", task.prompt)


def _completion(text: str, opened: bool) -> Completion:
    parts = split(text, opened=opened)
    return Completion(text=text, thought=parts.thought, answer=parts.answer, closed=parts.closed)
