"""Keep benchmarks out of training data: no ten words in a row may be shared (R1 v2 §B.3.1 and DeepSeek-V3).

An index is built from benchmark questions *and* solutions; a training text that shares an n-gram of words (of
characters, for Chinese) with any of them is contaminated. Texts of fewer than n words match only as a
whole, so match prompts as a model sees them: an instruction without its input is not what the benchmark asks.

    index = Index.of(benchmark_tasks)
    index.match("Nadia sold clips …")      # None, or "shares 'nadia sold clips …' with gsm8k/test-0"
    index.match_task(task)                 # the same for any turn of a task, and for all of them together
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from thinkery.core import Task
from thinkery.rewards.units import digest, ngrams, units, units_and_signs


class Index:
    """The n-grams of benchmark texts as 64-bit hashes; about 100 bytes for each different one.

    With n = 0 only whole texts are compared, the signs of formulas included.
    """

    def __init__(self, n: int = 10) -> None:
        self.n = n
        self._ids: list[str] = []
        self._owner: dict[int, int] = {}

    @classmethod
    def of(cls, tasks: Iterable[Task], n: int = 10) -> Index:
        """An index of benchmark tasks: their prompts, and their worked solutions where `info["solution"]` has one.

        Of a task of several turns the conversation is protected as a whole, and what users say in it by n-grams where
        it does not recur in other conversations of the benchmark. "What does the text say?" after one text is not the
        question after another: it is protected by itself only where all turns before it recur, as a system prompt does.
        """
        index, said = cls(n), [(task, _said(task)) for task in tasks]
        recurs = Counter(turn for turns in {turns for _, turns in said} for turn in set(turns))
        for task, turns in said:
            *earlier, question = turns
            # framed: nothing before the question is this task's alone
            framed, new = all(recurs[turn] > 1 for turn in earlier), recurs[question] == 1
            asked = [turn.content for turn in task.history if turn.role == "user" and recurs[turn.content] == 1]
            asked += [question] if framed or new else []
            grams = [gram for turn in asked for gram in ngrams(turn, n)] if n else []
            index._protect(f"{task.source}/{task.id}", [*grams, *_whole("\n".join(turns))])
            own = [question] if framed and (new or not earlier) else []
            index.add(f"{task.source}/{task.id}", *own, str(task.info.get("solution") or ""))
        return index

    def add(self, id: str, *texts: str) -> None:
        """Protect the texts of a benchmark item, to be reported as `id`."""
        self._protect(id, (piece for text in texts for piece in (*self._pieces(text), *_whole(text))))

    def match(self, text: str, *, whole: bool = False) -> str | None:
        """Which words a text shares with which benchmark item, None for a clean text.

        As a `whole` it is contaminated only where all its words are those of an item, numbers and signs included.
        """
        for piece in _whole(text) if whole else self._pieces(text):
            if (owner := self._owner.get(digest(piece))) is not None:
                return f"shares {piece!r} with {self._ids[owner]}"
        return None

    def match_task(self, task: Task, *, whole: bool = False) -> str | None:
        """What a turn of the system or the user in a task, or all turns together, share with which benchmark item."""
        turns = [turn.content for turn in task.history if turn.role in ("system", "user")]
        found = (self.match(turn, whole=whole) for turn in (*turns, question_of(task)))
        return next(filter(None, found), None) or self.match("\n".join(_said(task)), whole=True)

    def _protect(self, id: str, pieces: Iterable[str]) -> None:
        self._ids.append(id)
        for piece in pieces:
            self._owner.setdefault(digest(piece), len(self._ids) - 1)

    def _pieces(self, text: str) -> list[str]:
        """The n-grams of a text, or all units of a shorter one; with n = 0 the whole."""
        if not self.n:
            return _whole(text)
        return ngrams(text, self.n) or _joined(units(text))


def question_of(task: Task) -> str:
    """What a task asks, without the words that its source puts after every question."""
    return task.prompt.removesuffix(str(task.info.get("suffix") or "")).rstrip("\n")


def _said(task: Task) -> tuple[str, ...]:
    """All turns of a task, the question last."""
    return (*(turn.content for turn in task.history), question_of(task))


def _whole(text: str) -> list[str]:
    """A text as one piece, which another has only where its units and signs are the same; none where it has no unit."""
    return _joined(units_and_signs(text)) if units(text) else []


def _joined(found: list[str]) -> list[str]:
    return [" ".join(found)] if found else []
