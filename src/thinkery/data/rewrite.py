"""The editor of the cold start: it turns a raw thought into one that people like to read (R1 v2 §B.3.2).

An editor is any function (prompt, thought, answer, language) → Edited. It never sees the reference answer, so it
cannot repair what is wrong; whatever it returns is judged again. `EndpointEditor` asks a language model; the
instructions and the examples are ours, the aims are the paper's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinkery.core import Completion, Message, Sampling, seed_of
from thinkery.errors import RunFailed
from thinkery.rewards.ask import ask

if TYPE_CHECKING:
    from thinkery.engine.base import Engine


@dataclass(frozen=True, slots=True)
class Edited:
    """A thought and an answer after editing."""

    thought: str
    answer: str


Editor = Callable[[str, str, str, str], Edited]
Draft = tuple[str, str, str, str]  # prompt, thought, answer, language

_REPLY = re.compile(r"<thought>\s*(\S.*?)\s*</thought>\s*<summary>\s*(\S.*?)\s*</summary>", re.DOTALL)
_TAGS = re.compile(r"</?(?:think|answer|thought|summary)>")

INSTRUCTIONS = """\
You edit the notes somebody made while solving a problem, so that others can follow them.

Rewrite the THOUGHT as one person thinking aloud, in the first person: begin by saying what is asked and what is \
known, then work through the steps in their order. Keep moments of doubt ("wait, is that right?") where the notes \
have them, and end by checking the result. Then write a SUMMARY for a reader who only wants the solution: the main \
steps and the final answer.

Rules:
- Add no step, number or idea that the notes do not contain, and correct nothing: a mistake stays a mistake.
- Remove repetition, unfinished fragments, code fences and stray symbols.
- Write everything in the language of the problem: {language}.
- An easy problem keeps a short thought.
- The summary states the same final answer as the notes, inside \\boxed{{}}.

Reply with <thought>...</thought> and then <summary>...</summary>, nothing else.
"""

EXAMPLES: tuple[tuple[Draft, Edited], ...] = (
    (
        (
            "A box holds 4 rows of 6 eggs. 5 are broken. How many are whole?",
            "4*6 24. 24 eggs 24 eggs. minus 5 = 19. hmm check 19+5=24 ok",
            "19",
            "en",
        ),
        Edited(
            "I need the number of whole eggs. There are 4 rows of 6, so 4 × 6 = 24 eggs in all. Of these 5 are broken, "
            "which leaves 24 − 5 = 19. Let me check: 19 + 5 = 24. Yes, that fits.",
            "The box holds 4 × 6 = 24 eggs. Without the 5 broken ones, $24 - 5 = 19$ are whole.\n\n\\boxed{19}",
        ),
    ),
    (
        (
            "小明有12支铅笔，给了妹妹3支，又买了5支，现在有几支？",
            "12-3=9 so 9 then 9+5 = 14. wait 给妹妹是减 right. 14",
            "14",
            "zh",
        ),
        Edited(
            "题目问小明现在有几支铅笔。他原来有12支，给了妹妹3支，剩下12 − 3 = 9支。等等，给出去确实是减，没错。"
            "后来又买了5支，所以是9 + 5 = 14支。",
            "给出3支后剩12 − 3 = 9支，再买5支，共9 + 5 = 14支。\n\n\\boxed{14}",
        ),
    ),
)


class EndpointEditor:
    """An editor that asks a language model; calls with equal arguments give equal results (one seed per draft).

    `failures` counts the replies without a thought and a summary.
    """

    def __init__(self, engine: Engine, sampling: Sampling | None = None, seed: int = 0) -> None:
        self.engine, self.seed = engine, seed
        self.sampling = sampling or Sampling(temperature=0.3, max_tokens=8192)
        self.failures = 0

    def __call__(self, prompt: str, thought: str, answer: str, language: str) -> Edited:
        """Edit one draft; RunFailed when the reply cannot be used."""
        (edited,) = self.batch([(prompt, thought, answer, language)])
        if edited is None:
            raise RunFailed("the editor's reply has no <thought> and <summary>", where=f"prompt {prompt[:80]!r}")
        return edited

    def batch(self, drafts: Sequence[Draft]) -> list[Edited | None]:
        """Edit many drafts side by side, in order; None for a reply that cannot be used."""
        seeds = [seed_of(self.seed, 0, "\n".join(draft), 0) for draft in drafts]
        replies = ask(self.engine, [edit_messages(*draft) for draft in drafts], self.sampling, seeds)
        edits = [parse_reply(reply) for reply in replies]
        self.failures += edits.count(None)
        return edits


def edit_messages(prompt: str, thought: str, answer: str, language: str) -> tuple[Message, ...]:
    """The conversation that asks for an edit: instructions, two worked examples, the draft."""
    messages = [Message("system", INSTRUCTIONS.format(language=language or "as the problem"))]
    for draft, edited in EXAMPLES:
        reply = f"<thought>\n{edited.thought}\n</thought>\n<summary>\n{edited.answer}\n</summary>"
        messages += [Message("user", _shown(*draft)), Message("assistant", reply)]
    return (*messages, Message("user", _shown(prompt, thought, answer, language)))


def parse_reply(reply: Completion) -> Edited | None:
    """The edit in a model's reply, None unless there is exactly one and it is free of tags."""
    found = _REPLY.findall(reply.answer)
    if len(found) != 1 or any(_TAGS.search(part) for part in found[0]):
        return None
    return Edited(*found[0])


def diff(before: str, after: str) -> str:
    """What an edit changed, as a unified diff of lines; "" when nothing."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="")
    return "\n".join(lines)


def _shown(prompt: str, thought: str, answer: str, language: str) -> str:
    return f"# Problem ({language})\n{prompt}\n\n# Thought\n{thought}\n\n# Answer\n{answer}"
