"""A reward of one's own, named as `my.py:score`.

    def score(task: Task, completion: Completion) -> float:
        return float(completion.answer.strip() == task.gold)

`completion.answer` is what stands in the last `<answer>` tag where there is one, else what follows the thought. The
file runs with all rights of this process: it is your code, not a model's. It may import packages, but no files
beside it. Where rules are judged on a cluster, it stays in this process, as no other machine need have the file.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from hashlib import sha256
from typing import Any

from thinkery.core import Completion, Reward, Task
from thinkery.errors import UsageError
from thinkery.tasks.own_code import load_from_file, split_spec

EXAMPLE = "my.py:score"


def load_reward(spec: str) -> Reward:
    """The function that `path:name` names; InputError or UsageError says what is wrong with file, name or signature."""
    function = load_from_file(spec, "reward", EXAMPLE)
    _check_signature(function, spec)

    @functools.wraps(function)
    def reward(task: Task, completion: Completion) -> Any:
        return function(task, replace(completion, answer=untagged(completion.answer)))

    vars(reward).pop("rule", None)  # whatever the function says of itself
    return reward


def untagged(answer: str) -> str:
    """What the last `<answer>` tag holds; the text itself where there is no tag."""
    return answer.rpartition("<answer>")[2].partition("</answer>")[0].strip() if "<answer>" in answer else answer


def reward_hash(spec: str) -> str:
    """sha256 of the reward's file, so that an edited reward is another setting."""
    path, _ = split_spec(spec, "reward", EXAMPLE)
    return sha256(path.read_bytes()).hexdigest()


def _check_signature(function: Any, where: str) -> None:
    try:
        inspect.signature(function).bind("task", "completion")
    except TypeError as problem:
        found = f"{where.rpartition(':')[2]}{inspect.signature(function)}: {problem}"
        raise UsageError(
            "a reward takes (task, completion)", where=where, found=found, hint="def score(task, completion) -> float"
        ) from None
