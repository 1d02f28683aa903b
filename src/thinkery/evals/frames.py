"""FRAMES: questions whose facts stand in several articles, judged TRUE or FALSE by a model that knows the answer.

The published autorater asks whether the meaning and the vital facts of the reference are in the answer (Krishna et
al. 2024, §4.1); the wording of the prompt is ours. The articles are not given: a model answers from what it knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from thinkery.core import Completion, Message, Sampling, Score, Task
from thinkery.engine.base import Engine
from thinkery.rewards.judge import ReferenceJudge
from thinkery.tasks.files import Place

JUDGING = Sampling(temperature=0.0, max_tokens=4096)
"""How a judge is sampled, as Arena-Hard does it."""

DECIDE = """\
You check whether an answer to a question contains the answer that is known to be right.

Look at the substance: an equivalent statement counts, whatever its words, unless the exact words are what was asked \
for. The decision is TRUE if the meaning and the vital facts of the known answer are in the given one, else FALSE.

Say in a sentence or two why, and finish with one line:
Decision: TRUE or FALSE
"""

_DECISION = re.compile(r"decision\W*\b(true|false)\b", re.IGNORECASE)


def frames(rows: Iterable[Place]) -> Iterator[Task]:
    """The 824 questions, each with its answer; the published table calls its columns Prompt and Answer."""
    for i, (_, row) in enumerate(rows):
        question, answer = row.get("question", row.get("Prompt")), row.get("answer", row.get("Answer"))
        yield Task(f"frames/{i}", str(question).strip(), "general", str(answer), "en", "frames")


def frames_judge(engine: Engine) -> ReferenceJudge:
    """A reward: 1 where the judge decides TRUE, 0 for FALSE, ungraded where it does neither or both."""
    return ReferenceJudge(engine, JUDGING, messages=decision_messages, read=decision)


def decision_messages(task: Task, completion: Completion) -> tuple[Message, ...]:
    """The conversation that asks whether an answer contains the known one."""
    shown = f"# Question\n{task.prompt}\n\n# Known answer\n{task.gold}\n\n# Given answer\n{completion.answer}"
    return Message("system", DECIDE), Message("user", shown)


def decision(reply: Completion) -> Score:
    """The score of a judge's reply, with the reply as the reason."""
    found = {word.upper() for word in _DECISION.findall(reply.answer)}
    if len(found) != 1:
        return Score(None, f"the judge decided neither TRUE nor FALSE: {reply.answer[-200:]!r}")
    return Score(float(found == {"TRUE"}), " ".join(reply.answer.split())[-500:])
