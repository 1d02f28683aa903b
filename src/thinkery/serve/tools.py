"""Calls of tools in what a model says, as Hermes and Qwen write them: `<tool_call>{"name": …}</tool_call>`."""

from __future__ import annotations

import json
import re

from thinkery.chat import Call, overhang

OPEN = "<tool_call>"
CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


class CallCut:
    """The answer up to its first call, which may come bit by bit; what follows is read at the end."""

    def __init__(self, job: str) -> None:
        self.job, self.held = job, ""

    def push(self, text: str) -> str:
        """What is certainly not a call."""
        self.held += text
        place = self.held.find(OPEN)
        sure = place if place >= 0 else len(self.held) - overhang(self.held, (OPEN,))
        said, self.held = self.held[:sure], self.held[sure:]
        return said

    def close(self) -> tuple[str, tuple[Call, ...]]:
        """What was held back: calls, or text where they cannot be read."""
        try:
            calls = tuple(
                read_call(text, f"call_{number}_{self.job}") for number, text in enumerate(CALL.findall(self.held))
            )
        except (ValueError, LookupError, TypeError, RecursionError):
            calls = ()
        return ("" if calls else self.held), calls


def read_call(text: str, id: str) -> Call:
    """One call; raises ValueError, LookupError or TypeError for what is none."""
    data = json.loads(text)
    name, arguments = data["name"], data.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise TypeError("a call has a name, and arguments by name")
    written = json.dumps(arguments, ensure_ascii=False)
    (name + written).encode()  # half of a surrogate pair cannot be sent: ValueError
    return Call(id, name, written)
