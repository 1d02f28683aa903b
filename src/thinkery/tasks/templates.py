"""Prompt templates: the same question in other words, to see how much a model depends on them, and to train it not to.

    put(task, "Think first, then answer.\n\n{question}", 3).prompt     # "Think first, then answer.\n\nWhat is 2 + 3?"

A template is a text with `{question}`, which is what the user says; or, for a base model, which knows no turns, Jinja
for the whole prompt (`chat.R1_ZERO` is one). Sets are named for what is asked and for what they are good for: `-exam`
and `-practice` share the first template only, the one a model is asked with anyway, so that an exam shows what practice
is worth on words that were not practised.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from thinkery.chat import R1_ZERO, zero_prompt
from thinkery.core import Task
from thinkery.tasks.world import prompts

QUESTION = "{question}"
"""Where the question stands in what the user says."""


def is_instruction(template: str) -> bool:
    """Whether a template is what the user says, and not Jinja."""
    return QUESTION in template and "{{" not in template


def put(task: Task, template: str, number: int) -> Task:
    """The task as this template words it; the record keeps the template's number."""
    info = {**task.info, "template": number}
    if is_instruction(template):
        return replace(task, prompt=template.replace(QUESTION, task.prompt), info=info)
    return replace(task, chat_template=template, info=info)


def put_one(task: Task, templates: Sequence[str], seed: int) -> Task:
    """The task by one of the templates, numbered from 1; which one depends on the seed and the task's id alone."""
    n = random.Random(f"template/{seed}/{task.id}").randrange(len(templates))
    return put(task, templates[n], n + 1)


# ---- the sets

R1_ZERO_EXAM = (
    R1_ZERO,
    *map(
        zero_prompt,
        (
            "The following is a dialogue between User and Assistant. User poses a question and Assistant works it out. "
            "Assistant reasons first and answers afterwards: the reasoning stands between <think> and </think>, the "
            "answer between <answer> and </answer>.",
            "User asks a question. Assistant thinks about it inside <think> </think> tags, and gives the answer inside "
            "<answer> </answer> tags.",
            "Before answering, the assistant writes down its reasoning. Format: <think> reasoning process here "
            "</think> <answer> answer here </answer>.",
            "You are the Assistant in this conversation. Think the question through within <think> </think>, and only "
            "then state your answer within <answer> </answer>.",
            "A chat. Every reply of the Assistant has two parts, a train of thought in <think> </think> and, after it, "
            "the final answer in <answer> </answer>.",
            "In what follows, a curious user talks to an assistant who always deliberates first. Deliberation is "
            "enclosed in <think> </think>, the resulting answer in <answer> </answer>.",
            "The answer of the Assistant must be wrapped in <answer> </answer>, and must come after its thoughts, "
            "which are wrapped in <think> </think>.",
            "Task: answer the user. Step one, reason in your mind (<think> your reasoning </think>). Step two, reply "
            "(<answer> your reply </answer>).",
            "Conversation with an assistant that solves problems. It opens <think>, reasons, closes </think>, opens "
            "<answer>, answers, closes </answer>.",
        ),
    ),
)
"""R1-Zero's prompt and nine paraphrases."""

R1_ZERO_PRACTICE = (
    R1_ZERO,
    *map(
        zero_prompt,
        (
            "User and Assistant are talking. Assistant answers User's question after reasoning about it; the reasoning "
            "is put in <think> </think> tags and the answer in <answer> </answer> tags.",
            "The assistant solves what the user asks, thinking first (<think> thoughts </think>) and then answering "
            "(<answer> answer </answer>).",
            "Below, a user asks and an assistant responds. The response consists of <think> the assistant's reasoning "
            "</think> followed by <answer> the assistant's answer </answer>.",
            "Reason about the question within <think> and </think>. Then provide the answer within <answer> and "
            "</answer>.",
            "A conversation. The Assistant's mind is shown in <think> </think>, what it tells the User in <answer> "
            "</answer>, in this order.",
        ),
    ),
)
"""R1-Zero's prompt and five others, to draw from in training."""

CHAT_EXAM = (
    "{question}",
    "Please answer the following question.\n\n{question}",
    "{question}\n\nThink it through before you answer.",
    "Here is a problem to solve:\n\n{question}",
    "Question: {question}",
    "I need help with this:\n\n{question}\n\nThank you.",
    "Solve the task below. Reason carefully and check your result.\n\n{question}",
    "{question}\n\nTake your time and work step by step.",
    "You are given a task.\n\nTask: {question}\n\nGive your response.",
    "Read the question, think about it, and then respond.\n\n{question}",
)
"""Ten ways in which a user may ask; how the answer is to be written is left to the question."""

CHAT_PRACTICE = (
    "{question}",
    "Could you work this out?\n\n{question}",
    "{question}\n\nExplain how you get there.",
    "Problem:\n{question}",
    "Consider this and reply when you are sure:\n\n{question}",
    "{question}\n\nThanks in advance!",
)
"""Six, to draw from in training."""

TEMPLATE_SETS = {
    "r1-zero-exam": R1_ZERO_EXAM,
    "r1-zero-practice": R1_ZERO_PRACTICE,
    "chat-exam": CHAT_EXAM,
    "chat-practice": CHAT_PRACTICE,
    "world-zero-exam": prompts.ZERO_EXAM,
    "world-zero-practice": prompts.ZERO_PRACTICE,
    "world-chat-exam": prompts.CHAT_EXAM,
    "world-chat-practice": prompts.CHAT_PRACTICE,
}
"""Every set by the name that a recipe or `thinkery eval --templates` gives."""
