"""What clients send, as far as it is read; anything else in a body is passed over, as the API does."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thinkery.serve.refusals import malformed


class Sent(BaseModel):
    """Base of all that is read from a body: types as in JSON, no conversions."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class Part(Sent):
    """A part of a message's content; only text is understood."""

    type: str
    text: str | None = None


class CalledFunction(Sent):
    """A function that the model called, its arguments as JSON text."""

    name: str
    arguments: str = "{}"


class ToolCall(Sent):
    """A call that an assistant's message made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Sent):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    prefix: bool | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class JsonSchema(Sent):
    """A schema that the answer has to follow."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    name: str = "answer"
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(Sent):
    """How the answer has to be written."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class Function(Sent):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Sent):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function


class Asked(Sent):
    """What both kinds of request have in common."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    n: int | None = None
    seed: int | None = None


class ChatRequest(Asked):
    """The body of POST /chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    max_reasoning_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None


class CompletionRequest(Asked):
    """The body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None


S = TypeVar("S", bound=Sent)


def read(kind: type[S], body: bytes) -> S:
    """A body as `kind`; raises Refusal (422) with the first thing that is wrong and where."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise malformed(f"{where}: {first['msg']}" if where else first["msg"]) from None
