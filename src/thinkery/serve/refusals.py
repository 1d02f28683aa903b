"""Every answer that is an error: its status, its body, its words (those of the API where it has them)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = {401: "authentication_error", 402: "insufficient_balance_error", 429: "rate_limit_error"}
"""What an error's `type` says; all others are "invalid_request_error" below 500 and "server_error" from there."""

SUCCESSIVE = (
    "deepseek-reasoner does not support successive user or assistant messages (messages[{0}] and messages[{1}] in "
    "your input). You should interleave the user/assistant messages in the message sequence."
)
LAST = (
    "The last message of deepseek-reasoner must be a user message, or an assistant message with prefix mode on "
    "(refer to https://api-docs.deepseek.com/guides/chat_prefix_completion)."
)
FIRST = (
    "The first message (except the system message) of deepseek-reasoner must be a user message, but an assistant "
    "message detected."
)
SYSTEM = "The system message of deepseek-reasoner must be put on the beginning of the message sequence."
THOUGHT_SENT_BACK = (
    "The reasoning_content is an intermediate result for display purposes only and will not be included in the "
    "context for inference. Please remove the reasoning_content from your message to reduce network traffic."
)
CONTEXT = (
    "This model's maximum context length is {context} tokens. However, you requested {total} tokens ({prompt} in the "
    "messages, {completion} in the completion). Please reduce the length of the messages or completion."
)
NO_LOGPROBS = "deepseek-reasoner does not support logprobs and top_logprobs"
MALFORMED = "Failed to deserialize the JSON body into the target type: {0}"


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of every error, also inside a stream."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": "invalid_request_error"}}


def invalid(message: str, *values: object) -> Refusal:
    """400, with `values` put into the message."""
    return Refusal(400, message.format(*values) if values else message)


def out_of_range(name: str, low: object, high: object) -> Refusal:
    """400 for a number outside its range."""
    return invalid(f"Invalid {name} value, the valid range of {name} is [{low}, {high}]")


def malformed(problem: str) -> Refusal:
    """422 for a body that is not what the endpoint reads."""
    return Refusal(422, MALFORMED.format(problem))


def wrong_key(key: str) -> Refusal:
    """401; of the key only its end is repeated."""
    return Refusal(401, f"Authentication Fails, Your api key: ****{key[-4:]} is invalid")


def no_key() -> Refusal:
    """401 where no key was sent."""
    return Refusal(401, "Authentication Fails, no api key was sent (Authorization: Bearer …)")


def overloaded(why: str = "The server is overloaded, please retry later", *, after_s: int = 5) -> Refusal:
    """503, to be tried again."""
    return Refusal(503, why, headers={"Retry-After": str(after_s)})
