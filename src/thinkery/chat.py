"""Conversations as text: chat templates, and the split of what a model said into thought and answer.

A template is Jinja, rendered as Hugging Face does: sandboxed, with `messages`, `add_generation_prompt`,
`bos_token` and `eos_token`. A message's thought reaches the template as `reasoning_content`.

Whether a thought is open where the model begins is read from the rendered prompt (`opens_thought`), never
guessed from what the model wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import jinja2
from jinja2 import meta, nodes, parser
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from thinkery.core import Message
from thinkery.errors import InputError

OPEN, CLOSE = "<think>", "</think>"

# SmolLM2 and other ChatML models declare <|im_start|> as BOS without ever putting it before a text.
_BOS = "{% if bos_token and eos_token != '<|im_end|>' %}{{ bos_token }}{% endif %}"


def zero_prompt(preamble: str) -> str:
    """A template for a base model, which knows no turns: a preamble and the last message alone (v1 Table 1)."""
    return f"{_BOS}{preamble} User: {{{{ messages[-1].content }}}}. Assistant:"


R1_ZERO = zero_prompt(
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>."
)
"""The prompt of R1-Zero (v1 Table 1)."""

THINK_CHAT = (
    _BOS
    + """\
{%- if eos_token == '<|im_end|>' %}
{%- set opening = {'system': '<|im_start|>system\n', 'user': '<|im_start|>user\n',
                   'assistant': '<|im_start|>assistant\n'} %}
{%- set closing, reply_gap = '<|im_end|>\n', '' %}
{%- elif eos_token == '<|eot_id|>' %}
{%- set opening = {'system': '<|start_header_id|>system<|end_header_id|>\n\n',
                   'user': '<|start_header_id|>user<|end_header_id|>\n\n',
                   'assistant': '<|start_header_id|>assistant<|end_header_id|>\n\n'} %}
{%- set closing, reply_gap = '<|eot_id|>', '' %}
{%- elif eos_token == '<｜end▁of▁sentence｜>' %}
{%- set opening = {'system': '', 'user': '<｜User｜>', 'assistant': '<｜Assistant｜>'} %}
{%- set closing, reply_gap = '', '' %}
{%- else %}
{%- set opening = {'system': '', 'user': 'User: ', 'assistant': 'Assistant:'} %}
{%- set closing, reply_gap = '\n\n', ' ' %}
{%- endif %}
{%- for message in messages %}
{{- opening[message.role] }}
{%- if message.role == 'assistant' %}
{{- reply_gap }}
{%- if loop.last and message.reasoning_content is defined and message.reasoning_content is not none %}
{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
{%- endif %}
{{- message.content if loop.last else message.content.split('</think>')[-1].lstrip() }}
{{- closing if closing.startswith(eos_token) else eos_token + closing }}
{%- else %}
{{- message.content + closing }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ opening['assistant'] }}{% endif %}"""
)
"""Turns for a model that thinks, written with the special tokens the model's EOS belongs to.

`<|im_end|>`: ChatML; `<|eot_id|>`: Llama 3; `<｜end▁of▁sentence｜>`: DeepSeek; any other: `User: …` and
`Assistant: …` paragraphs. Only a final assistant turn shows its thought; the generation prompt leaves it to
the model whether to think.
"""


@dataclass(frozen=True, slots=True)
class Parts:
    """A completion, taken apart: `thought` None means there was none, `closed` that it was ended."""

    thought: str | None
    answer: str
    closed: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model called: its name, and its arguments as JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolTurn(Message):
    """A turn of a conversation with tools: an assistant's calls, or a tool's answer to the call with the id `to`."""

    calls: tuple[Call, ...] = ()
    to: str = ""


def render(
    template: str,
    messages: Sequence[Message],
    *,
    bos: str = "",
    eos: str = "",
    generate: bool = True,
    thought_prefix: str | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The text of a conversation; `generate` appends the words after which the assistant speaks.

    `tools` are described to the model by templates that know them (`knows_tools`). `thought_prefix` starts the
    assistant's thought for it, so that it goes on from there; "" just opens the thought. Raises InputError when the
    template is broken or refuses the conversation.
    """
    try:
        text = _compile(template).render(
            messages=[_turn(message) for message in messages],
            add_generation_prompt=generate,
            **({"bos_token": bos} if bos else {}),
            **({"eos_token": eos} if eos else {}),
            **({"tools": list(tools)} if tools else {}),
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise InputError(
            "the chat template cannot render this conversation",
            found=str(error),
            hint="check the roles and their order, or choose another template",
        ) from error
    return text if thought_prefix is None else begin_thought(text) + thought_prefix


def knows_tools(template: str) -> bool:
    """Whether a template describes tools and has the model call them as `<tool_call>{"name": …}</tool_call>`."""
    return "tools" in meta.find_undeclared_variables(_environment().parse(template)) and "<tool_call>" in template


def opens_thought(rendered_prompt: str) -> bool:
    """Whether a prompt ends inside a thought that has just been opened, so that the model goes on thinking."""
    return rendered_prompt.rstrip().endswith(OPEN)


def split(text: str, *, opened: bool) -> Parts:
    """Take a completion apart; `opened` says that its prompt already opened the thought.

    A thought starts at the very beginning or not at all, and ends at the first `</think>`; a `</think>`
    repeated right there is dropped, one further on belongs to the answer. White space around the tags goes.
    Without `</think>` everything is thought and the answer is empty.
    """
    body = text.lstrip()
    if not opened and not body.startswith(OPEN):
        return Parts(None, body, False)
    thought, close, answer = body.removeprefix(OPEN).partition(CLOSE)
    answer = answer.lstrip()
    while answer.startswith(CLOSE):
        answer = answer.removeprefix(CLOSE).lstrip()
    return Parts(thought.strip(), answer, bool(close))


class SplitStream:
    """`split` for text that comes bit by bit: what it returns, put together, is what `split` says of the whole.

        stream = SplitStream(opened=True)
        stream.push("2 + 3 is 5 </th")    # ("2 + 3 is 5", "")
        stream.push("ink> Five")          # ("", "Five")

    Held back is what may yet turn out to be a tag, and white space that may yet be the end of a thought.
    """

    def __init__(self, *, opened: bool) -> None:
        self.place: Literal["start", "thought", "gap", "answer"] = "start"
        """The gap is white space, and further closing tags, between thought and answer."""
        self.opened = opened
        self.thinks = opened
        """Whether there is a thought, as far as is known."""
        self.begun = False
        """Whether anything of the thought was returned."""
        self.held = ""

    @property
    def closed(self) -> bool:
        """Whether the thought was ended."""
        return self.thinks and self.place in ("gap", "answer")

    def push(self, text: str) -> tuple[str, str]:
        """More text; returns what is certain now of thought and answer."""
        self.held += text
        if self.place == "start":
            self._start()
        thought = self._thought() if self.place == "thought" else ""
        if self.place == "gap":
            self._gap()
        return thought, self._release() if self.place == "answer" else ""

    def close(self) -> tuple[str, str]:
        """What was held back, now that nothing follows."""
        held = self._release()
        if self.place == "start":
            held = held.lstrip()
        if self.thinks and not self.closed:
            return (held.rstrip() if self.begun else held.strip()), ""
        return "", held

    def _start(self) -> None:
        """Look for a tag at the very beginning."""
        begun = self.held.lstrip()
        if begun.startswith(OPEN):
            self.place, self.thinks, self.held = "thought", True, begun.removeprefix(OPEN)
        elif not OPEN.startswith(begun):
            self.place, self.held = "thought" if self.opened else "answer", begun

    def _thought(self) -> str:
        """Take what is surely thought from what is held."""
        if not self.begun:
            self.held = self.held.lstrip()
        thought, close, rest = self.held.partition(CLOSE)
        if close:
            self.place, self.held = "gap", rest
            return thought.rstrip()
        sure = self.held[: len(self.held) - overhang(self.held, (CLOSE,))].rstrip()
        self.begun, self.held = self.begun or bool(sure), self.held[len(sure) :]
        return sure

    def _gap(self) -> None:
        """Drop white space and repeated tags."""
        self.held = self.held.lstrip()
        while self.held.startswith(CLOSE):
            self.held = self.held.removeprefix(CLOSE).lstrip()
        if not CLOSE.startswith(self.held):
            self.place = "answer"

    def _release(self) -> str:
        held, self.held = self.held, ""
        return held


def overhang(text: str, tags: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of one of these tags."""
    longest = min(len(text), max(map(len, tags), default=1) - 1)
    end = text[len(text) - longest :]
    if not any(tag[0] in end for tag in tags):  # nearly always, and the search below takes longer than the rest
        return 0
    return next((n for n in range(longest, 0, -1) if any(tag.startswith(text[-n:]) for tag in tags)), 0)


def conversation_parts(template: str, messages: Sequence[Message], *, eos: str, bos: str = "") -> tuple[str, str]:
    """(prompt, target) of a conversation that ends with an assistant's turn; together they are what SFT trains on.

    The prompt ends where the model would begin to speak; the target is the last turn, thought included, and
    ends with `eos`. A thought written inside the turn's content, tags and all, is kept as it is.
    """
    *before, last = messages
    if last.role != "assistant":
        raise InputError("a conversation to learn from must end with the assistant's turn", found=f"role {last.role!r}")
    prompt = render(template, before, bos=bos, eos=eos)
    said = _spoken(last, opened=opens_thought(prompt))
    whole = render(template, [*before, Message("assistant", said)], bos=bos, eos=eos, generate=False)
    return prompt, _gap(prompt, whole) + said.strip() + eos


def turn_end(template: str, *, eos: str, bos: str = "") -> str:
    """What a template puts behind an assistant's words where another turn follows; "" where it shows no such turn."""
    said = "Nineteen."
    talk = [Message("user", "How many?"), Message("assistant", said), Message("user", "Why?")]
    try:
        text = render(template, talk, bos=bos, eos=eos)
    except InputError:  # it knows no such conversation
        return ""
    return text.partition(said)[2]


def _spoken(message: Message, opened: bool) -> str:
    """What the assistant says in this turn, tags included, given whether the prompt opened the thought."""
    if message.thought is not None:
        text = f"{OPEN}\n{message.thought}\n{CLOSE}\n\n{message.content}"
    elif opened and CLOSE not in message.content:
        text = f"{OPEN}\n{CLOSE}\n\n{message.content}"
    else:
        text = message.content
    return text.removeprefix(OPEN).lstrip() if opened else text


def _gap(prompt: str, whole: str) -> str:
    """The white space a template puts between its generation prompt and the assistant's words."""
    rest = whole.removeprefix(prompt)
    return rest[: len(rest) - len(rest.lstrip())] if whole.startswith(prompt) else ""


def begin_thought(prompt: str) -> str:
    """A prompt with its thought opened, if it is not yet."""
    if opens_thought(prompt):
        return prompt
    return prompt + ("" if prompt[-1:].isspace() or prompt.endswith(">") else " ") + f"{OPEN}\n"


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thought is not None:
        turn["reasoning_content"] = message.thought
    if isinstance(message, ToolTurn):
        turn |= {"tool_call_id": message.to} if message.to else {}
        turn |= {"tool_calls": [_call(call) for call in message.calls]} if message.calls else {}
    return turn


def _call(call: Call) -> dict[str, Any]:
    """A call as templates read it: Qwen's take the arguments as an object."""
    function = {"name": call.name, "arguments": json.loads(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`, with which some templates mark what was generated."""

    tags = {"generation"}

    def parse(self, parser: parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=32)
def _compile(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of Hugging Face's templates: nothing but rendering can be done in it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
