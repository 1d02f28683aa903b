"""The embedded world's prompts in other words: templates for an exam of prompt sensitivity, and others to practise on.

Most words are known to the base from its reading, the wordings mostly not: it has read those that are taken from
`PREAMBLES`, and no other. Exam and practice share the first template only, the one that a model is asked with anyway.
"""

from __future__ import annotations

from thinkery.tasks.world.documents import PREAMBLES


def framed(preamble: str) -> str:
    """A preamble as the whole prompt of a base model."""
    return f"{preamble}\nUser: {{{{ messages[-1].content }}}}\nAssistant:"


ZERO_EXAM = tuple(
    framed(preamble)
    for preamble in (
        PREAMBLES[0],
        PREAMBLES[1],
        PREAMBLES[3],
        "First think in <think> </think>, then answer in <answer> </answer>.",
        "A talk between User and Assistant: the thought inside <think> </think>, the answer inside <answer> </answer>.",
        "The user asks. The assistant thinks inside <think> </think> and then answers inside <answer> </answer>.",
        "The answer goes in <answer> </answer>, and the thought before it in <think> </think>.",
        "Assistant, think first: the thought in <think> </think>, then the answer in <answer> </answer>.",
        "After a thought inside the tags <think> </think> the assistant answers inside the tags <answer> </answer>.",
        "The assistant answers the user so: <think> thought here </think> <answer> answer here </answer>.",
    )
)
"""Ten ways to ask what zero is asked."""

ZERO_PRACTICE = tuple(
    framed(preamble)
    for preamble in (
        PREAMBLES[0],
        PREAMBLES[2],
        "Think first in <think> </think>. Then answer the user in <answer> </answer>.",
        "The assistant thinks inside <think> </think>. The answer goes inside <answer> </answer>.",
        "In a talk with User, Assistant thinks in <think> </think> before the answer in <answer> </answer>.",
        "Put the thought inside <think> </think> and the answer after it inside <answer> </answer>.",
        "The answer in <answer> </answer> comes after the thought in <think> </think>.",
        "User asks and Assistant answers: first <think> thought </think>, then <answer> answer </answer>.",
    )
)
"""Eight, to draw from in training."""

CHAT_EXAM = (
    "{question}",
    "Hello. {question}",
    "{question} Thank you.",
    "Tell me: {question}",
    "First think, then answer. {question}",
    "{question} Think first and then answer.",
    "The user asks: {question}",
    "Good morning, friend. {question} What is the answer?",
    "Answer this after a thought: {question}",
    "{question} Tell me the answer.",
)
"""Ten things around the question that a user may say."""

CHAT_PRACTICE = (
    "{question}",
    "Hello, friend. {question}",
    "{question} Say the answer.",
    "Think, then answer: {question}",
    "Thank you for the answer. {question}",
    "The assistant thinks first. {question}",
    "{question} What do you say?",
    "Good morning! {question} Goodbye.",
    "{question} Answer, friend.",
    "{question} Think before the answer.",
    "Hello! {question} Thank you, friend.",
    "{question} What is it?",
    "Now think. {question} Say what it is.",
    "Good morning. {question} Tell me what you say.",
    "{question} You are the assistant.",
    "The user says: {question} And the assistant answers.",
    "Hello, friend. {question} What do you say?",
    "Think. {question} What is it, friend?",
    "Thank you, assistant. {question} Say it.",
    "You are the assistant. {question} Tell me what it is.",
)
"""Twenty, to draw from in training."""
