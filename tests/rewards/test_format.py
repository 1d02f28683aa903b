"""Did it think, then answer?"""

from __future__ import annotations

import pytest

from thinkery.chat import split
from thinkery.core import Completion, Task
from thinkery.rewards.format import thinks, thinks_then_answers

TASK = Task("t", "?", "math", "5")


def said(text: str, *, opened: bool = False) -> Completion:
    parts = split(text, opened=opened)
    return Completion(text=text, thought=parts.thought, answer=parts.answer, closed=parts.closed)


@pytest.mark.parametrize(
    ("text", "zero", "chat"),
    [
        ("<think>\nline\nline\n</think>\n<answer>5\n</answer>\n", 1.0, 1.0),
        ("<think>so</think>It is 5.", 0.0, 1.0),
        ("<think>so</think><answer>5</answer> and more", 0.0, 0.0),
        ("<think>so</think><answer>5</answer><answer>6</answer>", 0.0, 0.0),
        ("<think>so</think><answer> </answer>", 0.0, 0.0),
        ("<think>so</think>", 0.0, 0.0),
        ("<think></think>a", 0.0, 0.0),
        ("<think> </think><answer>5</answer>", 0.0, 0.0),
        ("<think>so <think> so</think><answer>5</answer>", 0.0, 0.0),
        ("<think>so</think> 5 </think> 6", 0.0, 0.0),
        ("<think>so <answer>5</answer>", 0.0, 0.0),
        ("Well. <think>so</think><answer>5</answer>", 0.0, 0.0),
        ("<answer>5</answer>", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_only_a_thought_and_then_an_answer_pays(text: str, zero: float, chat: float) -> None:
    assert thinks_then_answers(TASK, said(text)).value == zero
    assert thinks(TASK, said(text)).value == chat


def test_a_thought_that_the_template_opened_needs_no_second_tag() -> None:
    assert thinks_then_answers(TASK, said("so</think><answer>5</answer>", opened=True)).value == 1.0
    assert thinks(TASK, said("so</think>5", opened=True)).value == 1.0


def test_the_thought_of_a_general_prompt_may_be_empty_but_not_missing() -> None:
    hello = Task("g", "Hello", "general")
    assert thinks(hello, said("<think>\n\n</think>\n\nHello, friend.")).value == 1.0
    assert thinks(hello, said("Hello, friend.")).value == 0.0
    assert thinks_then_answers(hello, said("<think></think><answer>Hello</answer>")).value == 0.0
