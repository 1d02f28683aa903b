"""Environments of other libraries as sources of tasks that judge their own answers.

    [[problems.sources]]
    source = "gym"                  # anything with reset and step; or reasoning-gym, or verifiers
    path = "my_env.py:make"
    settings = {words = 3}
    limit = 500

A task of kind "environment" keeps in `info["environment"]` how any process opens its episode again. The code of an
environment runs with all rights of this process. Trained is the first turn of an episode; `core.py:Task.continued` is
where longer ones go on.
"""

from __future__ import annotations

from typing import Any

from thinkery.core import Episode, Task
from thinkery.tasks.environments import gym, puzzles, verifiers

LIBRARIES = {"gym": gym.Game, "reasoning-gym": puzzles.Puzzle, "verifiers": verifiers.SingleTurn}
"""The episode of each library, made from what a task's `info["environment"]` says."""


def open_episode(task: Task) -> Episode:
    """A fresh episode of a task of kind "environment", at its beginning."""
    how: dict[str, Any] = dict(task.info["environment"])
    return LIBRARIES[how.pop("library")](**how)
