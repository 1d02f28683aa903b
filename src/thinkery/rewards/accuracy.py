"""Accuracy: is the final answer right? The rule is chosen by the task's kind (R1 v1 §2.2.2).

    math     mathematically equal, judged in a killable worker (math_answer), and not copied from the question
    choice   the same letter
    exact    the same text, case and white space aside
    code     a program that passes hidden tests in the sandbox (code_tests)
    software a patch after which a repository's hidden tests pass (software)
    environment  what the environment that made it says (environment)

`accuracy` asks for an answer in a tag or a box. `lenient_accuracy` also takes an untuned base model's bare
answer; it is for evaluating, since it pays for any text that ends in the right number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thinkery.core import Completion, Score, Task
from thinkery.rewards.code_tests import code_tests
from thinkery.rewards.environment import answer_form, first_turn
from thinkery.rewards.extract import bare_answer, final_answer, letter, plain
from thinkery.rewards.formula import besides, copied, disguised
from thinkery.rewards.math_answer import MathPool, shared_pool
from thinkery.rewards.notation import usual
from thinkery.rewards.software import software_tests

COPIED = "the answer is not worked out: it stands in the question"
TESTED = {"code": code_tests, "software": software_tests}
"""The kinds whose answer is run."""
RULED = ("math", "choice", "exact", "environment", *TESTED)
"""The kinds of task whose answer a rule can judge."""


class Accuracy:
    """1 for a right final answer, 0 for a wrong or a missing one, ungraded where no rule can say.

    `extract(completion, kind)` finds the final answer; without a `pool`, mathematics goes to the shared one.
    """

    def __init__(
        self, extract: Callable[[Completion, str], str | None] = final_answer, pool: MathPool | None = None
    ) -> None:
        self.extract, self._pool = extract, pool

    def __call__(self, task: Task, completion: Completion) -> Score:
        return self.batch([(task, completion)])[0]

    def rule(self, task: Task) -> bool:
        """Whether any machine may judge: an environment may be a file of this one, and a pool belongs to a process."""
        return task.kind != "environment" and self._pool is None

    def batch(self, pairs: Sequence[tuple[Task, Completion]]) -> list[Score]:
        """One score per pair, in order; all mathematical answers are compared side by side."""
        scores: dict[int, Score] = {}
        maths: dict[int, tuple[str, str]] = {}
        for kind, tests in TESTED.items():
            rows = [i for i, (task, _) in enumerate(pairs) if task.kind == kind]
            scores.update(zip(rows, tests.batch([pairs[i] for i in rows]), strict=True))
        for i, (task, completion) in enumerate(pairs):
            if i in scores:
                continue
            answer = self.extract(completion, answer_form(task))
            if task.kind == "math" and task.gold and answer is not None:
                maths[i] = (task.gold, answer)
            else:
                scores[i] = _judge(task, completion, answer)
        if maths:
            pool = self._pool or shared_pool()
            for (i, (gold, answer)), score in zip(maths.items(), pool.grade(list(maths.values())), strict=True):
                is_copy = score.value and is_copied(pool, pairs[i][0].prompt, gold, answer)
                scores[i] = Score(0.0, COPIED) if is_copy else score
        return [scores[i] for i in range(len(pairs))]


accuracy = Accuracy()
lenient_accuracy = Accuracy(bare_answer)


def is_copied(pool: MathPool, question: str, gold: str, answer: str) -> bool:
    """Whether a right answer is a formula that the question quotes, as it stands or with something around it."""
    written = usual(answer) or answer
    if copied(question, gold, written):
        return True
    for formula in disguised(question, gold, written):
        equal = [score.value for score in pool.grade([(gold, one) for one in [formula, *besides(formula, written)]])]
        if equal[0] and not any(equal[1:]):
            return True
    return False


def _judge(task: Task, completion: Completion, answer: str | None) -> Score:
    """The score of everything that needs no mathematics."""
    if task.kind not in RULED:
        return Score(None, f"no rule for kind {task.kind!r}")
    if task.kind == "environment":
        return first_turn(task, completion, answer)
    if not task.gold:
        return Score(None, "the task has no gold answer")
    if completion.thought is not None and not completion.closed:
        return Score(0.0, "thought not closed")
    if answer is None:
        return Score(0.0, "no answer")
    if task.kind == "choice":
        return _same(letter(answer), letter(task.gold), answer, task.gold)
    return _same(plain(answer), plain(task.gold), answer, task.gold)


def _same(given: str | None, wanted: str | None, answer: str, gold: str) -> Score:
    if not wanted:
        return Score(None, f"the gold answer {gold!r} cannot be used")
    if given == wanted:
        return Score(1.0, f"{gold!r} as it should be")
    return Score(0.0, f"{answer[:200]!r} is not {gold!r}")
