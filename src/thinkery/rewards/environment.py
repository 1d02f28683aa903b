"""What the environment that made a task says of an answer, after the first turn of an episode.

Where a task has a gold answer, as Reasoning Gym's puzzles have, only the final answer is handed over; any other
environment gets the whole reply, without its thought and outside of `<answer>` tags.
"""

from __future__ import annotations

import re

from thinkery.core import Completion, Score, Task
from thinkery.errors import ThinkeryError
from thinkery.rewards.custom import untagged
from thinkery.tasks.environments import open_episode

_NUMBER = re.compile(r"\s*[-+]?[\d,]*\.?\d+\s*")


def answer_form(task: Task) -> str:
    """The kind whose rule finds the final answer: a task's own, but "math" for an environment that wants a number."""
    if task.kind == "environment":
        return "math" if _NUMBER.fullmatch(task.gold or "") else "exact"
    return task.kind


def first_turn(task: Task, completion: Completion, answer: str | None) -> Score:
    """The score of the first turn, ungraded where the environment fails; `answer` is the final answer found."""
    if completion.thought is not None and not completion.closed:
        return Score(0.0, "thought not closed")
    reply = answer if task.gold else untagged(completion.answer)
    if not reply:
        return Score(0.0, "no answer")
    try:
        turn = open_episode(task).reply(reply)
    except ThinkeryError:
        raise  # a package or a file is missing: every task would fail
    except Exception as error:
        return Score(None, f"the environment failed: {type(error).__name__}: {error}"[:500])
    return turn.score if turn.over else Score(turn.score.value, f"{turn.score.reason}; the episode would go on")
