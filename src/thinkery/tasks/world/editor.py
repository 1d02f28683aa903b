"""The embedded world's editor: rewrites a raw thought as R1's annotators did (v2 §B.3.2), by fixed rules.

It stands where an LLM stands on real data and sees no more than one would: the question and the sample, never
the gold answer or the generator. It says the steps that are there in the language of the question, drops what
is no step, opens in the first person, ends by looking back, and writes a faithful boxed summary.
"""

from __future__ import annotations

import re

from thinkery.tasks.world.problems import Language

SUM = re.compile(r"(\d+)\s*(plus|minus|加|减)\s*(\d+)\s*(?:is|得)\s*(\d+)")
SWAP = re.compile(r"\b([A-F])\s*[,，]\s*(?:swap|换)\s*([A-F])\s+([A-F])\s*[,，]\s*(?:at|在)\s*([A-F])")
DOUBT = re.compile(r"Wait, check\.|等等，检查。")
STEP = re.compile(f"{SUM.pattern}|{SWAP.pattern}|{DOUBT.pattern}")

OPENING: dict[Language, str] = {"en": "I go step by step.", "zh": "我一步一步来。"}
DOUBTING: dict[Language, str] = {"en": "Wait, check.", "zh": "等等，检查。"}
CLOSING: dict[Language, str] = {"en": "So I get {}.", "zh": "所以我得 {}。"}
SUMMARY: dict[Language, str] = {"en": "The answer is \\boxed{{{}}}.", "zh": "答案是 \\boxed{{{}}}。"}


def rewrite(prompt: str, thought: str, answer: str, language: str) -> tuple[str, str]:
    """(thought, answer) in the house style; the steps and the final value are the sample's own."""
    tongue: Language = "zh" if language == "zh" else "en"
    steps = [say(match, tongue) for match in STEP.finditer(thought)]
    value = final_value(answer)
    lines = [OPENING[tongue], *steps, CLOSING[tongue].format(value)]
    return " ".join(lines), SUMMARY[tongue].format(value)


def say(match: re.Match[str], language: Language) -> str:
    """One step of the sample in the wanted language."""
    text = match.group(0)
    if found := SUM.fullmatch(text):
        before, word, n, after = found.groups()
        if language == "zh":
            return f"{before} {'加' if word in ('plus', '加') else '减'} {n} 得 {after}。"
        return f"{before} {'plus' if word in ('plus', '加') else 'minus'} {n} is {after}."
    if found := SWAP.fullmatch(text):
        before, a, b, after = found.groups()
        return f"{before}，换 {a} {b}，在 {after}。" if language == "zh" else f"{before}, swap {a} {b}, at {after}."
    return DOUBTING[language]


def final_value(answer: str) -> str:
    """The last number or cup letter of the sample's answer."""
    values = re.findall(r"\d+|\b[A-F]\b", answer)
    return values[-1] if values else ""
