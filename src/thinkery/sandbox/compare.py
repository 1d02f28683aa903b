"""When a program's output is the expected one: the rule of LiveCodeBench (lcb_runner/evaluation/testing_util.py).

White space around the whole output and around each line does not count. A line is right when it is the same text, or
when both are the same numbers, token by token: 1.0 is 1 and 1e3 is 1000, but 0.1 is not 0.10000001.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation


def difference(output: str, expected: str) -> str | None:
    """The first difference in one line, None where the output is right."""
    given, wanted = _lines(output), _lines(expected)
    if len(given) != len(wanted):
        return f"{len(given)} lines instead of {len(wanted)}"
    for number, (line, right) in enumerate(zip(given, wanted, strict=True), start=1):
        if line != right and not _same_numbers(line, right):
            return f"line {number}: {_short(line)} instead of {_short(right)}"
    return None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_numbers(line: str, right: str) -> bool:
    numbers, wanted = _numbers(line), _numbers(right)
    return numbers is not None and numbers == wanted


def _numbers(line: str) -> list[Decimal] | None:
    try:
        numbers = [Decimal(token) for token in line.split()]
    except InvalidOperation:
        return None
    return None if any(number.is_nan() for number in numbers) else numbers  # comparing an sNaN raises


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:99] + "…")
