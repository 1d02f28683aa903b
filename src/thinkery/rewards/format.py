"""Format: did the model think first and then answer? All or nothing, so that neither half can be collected alone.

Whether a thought was opened comes from the completion, whose parser knows the prompt: a template that already wrote
`<think>` costs nothing.
"""

from __future__ import annotations

import re

from thinkery.core import Completion, Score, Task, rule

_TAG = re.compile(r"</?(?:think|answer)>")
_ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)


@rule
def thinks_then_answers(task: Task, completion: Completion) -> Score:
    """1 for `<think>…</think> <answer>…</answer>` and nothing else, the form R1-Zero was asked for (v1 Table 1)."""
    if problem := _thought_problem(completion):
        return Score(0.0, problem)
    found = _ANSWER.fullmatch(completion.answer)
    if not found:
        return Score(0.0, "the thought is not followed by one <answer>…</answer> alone")
    if _TAG.search(found[1]):
        return Score(0.0, "tags inside the answer")
    return Score(1.0, "a thought, then an answer") if found[1].strip() else Score(0.0, "the answer is empty")


@rule
def thinks(task: Task, completion: Completion) -> Score:
    """1 for a closed thought followed by an answer, the form of a chat model; the answer may stand in <answer> tags.

    The thought of a general prompt may be empty: R1's data has none before the answer to "hello" (v1 §2.3.3).
    """
    if problem := _thought_problem(completion, may_be_empty=task.kind == "general"):
        return Score(0.0, problem)
    found = _ANSWER.fullmatch(completion.answer)
    answer = found[1] if found else completion.answer
    if _TAG.search(answer):
        return Score(0.0, "tags inside the answer")
    return Score(1.0, "a thought, then an answer") if answer.strip() else Score(0.0, "the answer is empty")


def _thought_problem(completion: Completion, *, may_be_empty: bool = False) -> str | None:
    if completion.thought is None:
        return "no thought"
    if not completion.closed:
        return "thought not closed"
    if not may_be_empty and not completion.thought.strip():
        return "the thought is empty"
    return "tags inside the thought" if _TAG.search(completion.thought) else None
