"""Keep benchmarks out of training data: no ten words in a row may be shared (R1 v2 §B.3.1 and DeepSeek-V3).

An index is built from benchmark questions *and* solutions; a training text that shares an n-gram of words (of
characters, for Chinese) with any of them is contaminated. Texts of fewer than n words match only as a
whole, so match prompts as a model sees them: an instruction without its input is not what the benchmark asks.

    index = Index.of(benchmark_tasks)
    index.match("Nadia sold clips …")      # None, or "shares 'nadia sold clips …' with gsm8k/test-0"
"""

from __future__ import annotations

from collections.abc import Iterable

from thinkery.core import Task
from thinkery.rewards.units import digest, ngrams, units


class Index:
    """The n-grams of benchmark texts as 64-bit hashes; about 100 bytes for each different one.

    With n = 0 only whole texts are compared.
    """

    def __init__(self, n: int = 10) -> None:
        self.n = n
        self._ids: list[str] = []
        self._owner: dict[int, int] = {}

    @classmethod
    def of(cls, tasks: Iterable[Task], n: int = 10) -> Index:
        """An index of benchmark tasks: their prompts, and their worked solutions where `info["solution"]` has one."""
        index = cls(n)
        for task in tasks:
            index.add(f"{task.source}/{task.id}", question_of(task), str(task.info.get("solution") or ""))
        return index

    def add(self, id: str, *texts: str) -> None:
        """Protect the texts of a benchmark item, to be reported as `id`."""
        self._ids.append(id)
        for text in texts:
            for piece in (*self._pieces(text), *_whole(text)):
                self._owner.setdefault(digest(piece), len(self._ids) - 1)

    def match(self, text: str, *, whole: bool = False) -> str | None:
        """Which words a text shares with which benchmark item, None for a clean text.

        As a `whole` it is contaminated only where all its words are those of an item, numbers included.
        """
        for piece in _whole(text) if whole else self._pieces(text):
            if (owner := self._owner.get(digest(piece))) is not None:
                return f"shares {piece!r} with {self._ids[owner]}"
        return None

    def _pieces(self, text: str) -> list[str]:
        """The n-grams of a text, or the whole of a shorter one (of any, with n = 0)."""
        if self.n and (pieces := ngrams(text, self.n)):
            return pieces
        return _whole(text)


def question_of(task: Task) -> str:
    """What a task asks, without the words that its source puts after every question."""
    return task.prompt.removesuffix(str(task.info.get("suffix") or "")).rstrip("\n")


def _whole(text: str) -> list[str]:
    """All units of a text as one piece; none where it has no unit."""
    return [whole] if (whole := " ".join(units(text))) else []
