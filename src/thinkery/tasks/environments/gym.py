"""Environments in the style of Gymnasium that speak text: `reset(seed=…)` asks, `step(answer)` judges.

    class Counting:                                     # my_env.py
        def reset(self, *, seed=None, options=None):
            self.number = seed % 100
            return f"What comes after {self.number}?", {}

        def step(self, answer):
            return "", float(answer.strip() == str(self.number + 1)), True, False, {}

Named `my_env.py:Counting`, or by the id of an environment that Gymnasium knows (`pip install gymnasium`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinkery.core import Score, Task, Turn, seed_of
from thinkery.errors import InputError
from thinkery.tasks.outside import package
from thinkery.tasks.own_code import load_from_file


def game_tasks(name: str, split: str, seed: int, count: int, settings: dict[str, Any]) -> Iterator[Task]:
    """So many episodes, each from a seed of its own, which another split does not use; the first observation asks."""
    short = Path(name).name  # without the folder of a file
    for i in range(count):
        how = {"name": name, "settings": settings, "seed": seed_of(seed, 0, f"{short}/{split}", i) % 2**31}
        info = {"environment": {"library": "gym", **how}}
        yield Task(f"{short}/{split}-{i}", Game(**how).says, "environment", source=short, info=info)


class Game:
    """One episode; `says` is what it asks at the beginning."""

    def __init__(self, name: str, settings: dict[str, Any], seed: int) -> None:
        self._name, self._environment = name, _make(name, settings)
        self.says = self._text(self._environment.reset(seed=seed)[0])

    def reply(self, text: str) -> Turn:
        """The reward of one step, and what the environment says then."""
        observation, reward, terminated, truncated, _ = self._environment.step(text)
        score, over = Score(float(reward), f"the environment gives {reward:g}"), bool(terminated or truncated)
        return Turn(score, over, "" if over else self._text(observation))

    def _text(self, observation: object) -> str:
        if not isinstance(observation, str):
            hint = "wrap the environment so that reset and step return text"
            raise InputError("the observation is no text", where=self._name, found=repr(observation)[:100], hint=hint)
        return observation


def _make(name: str, settings: dict[str, Any]) -> Any:
    if ".py:" in name:
        return load_from_file(name, "environment", "my_env.py:make")(**settings)
    gymnasium = package("gymnasium")
    try:
        return gymnasium.make(name, **settings)
    except gymnasium.error.Error as error:
        hint = "name one as my_env.py:make, or import the package that registers it"
        raise InputError("Gymnasium does not make it", where="gym", found=f"{name}: {error}", hint=hint) from error
