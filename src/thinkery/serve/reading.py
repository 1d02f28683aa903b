"""A request as jobs: the conversation put right or refused by the rules of a profile, rendered, and measured.

Order of the checks: the shape of the conversation, the numbers, the length; each raises the `Refusal` of the API.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from uuid import uuid4

from thinkery import chat
from thinkery.core import Message, Role, Sampling, seed_of
from thinkery.errors import InputError
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve import refusals
from thinkery.serve.config import EngineName, Limits
from thinkery.serve.grammar import json_grammar
from thinkery.serve.jobs import Begins, Job
from thinkery.serve.profiles import Profile
from thinkery.serve.refusals import invalid, malformed, out_of_range
from thinkery.serve.wire import Asked, ChatMessage, ChatRequest, CompletionRequest, ResponseFormat

FIXED = Sampling(temperature=0.6, top_p=0.95)
"""How R1 is sampled where requests have no say (v2 §D.1)."""


COLDEST = 1e-5
"""Temperatures below it are 0: float32 cannot hold logits divided by much less."""


@dataclass(frozen=True, slots=True)
class Readable:
    """A served model as requests are read for it."""

    name: str
    tokenizer: Tokenizer
    context: int
    """Tokens of prompt and completion together."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What decides how requests are read."""

    profile: Profile
    limits: Limits
    engine: EngineName = "native"

    def messages(self, request: ChatRequest) -> list[Message]:
        """The conversation, with the beginning of the answer as its last message where the request gives it."""
        messages, prefix = conversation(request.messages, self.profile, self.limits)
        return messages if prefix is None else [*messages, prefix]

    def chat(self, request: ChatRequest, model: Readable, salt: str) -> list[Job]:
        """The jobs of a chat request, one for each answer asked for."""
        messages, prefix = conversation(request.messages, self.profile, self.limits)
        self.require_known(request)
        tools = self.tools(request, messages, model.tokenizer)
        prompt, begins = rendered(model.tokenizer, messages, prefix, tools)
        asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        base = Job(
            id="",
            model=model.name,
            prompt=prompt,
            seed=0,
            sampling=self.sampling(request, self.room(asked, len(prompt), model.context)),
            begins=begins,
            stop=self.stops(request),
            max_thought=self.max_thought(request),
            max_answer=(asked or self.profile.default_tokens) if self.profile.most_thought else None,
            salt=salt,
            deadline_s=self.limits.request_s,
            logprobs=bool(request.logprobs),
            alternatives=request.top_logprobs or 0,
            grammar=self.grammar(request.response_format),
            calls=bool(tools),
        )
        return list(self.several([self.adjusted(base, request, model.tokenizer)], request))

    def completions(self, request: CompletionRequest, model: Readable, salt: str) -> list[Job]:
        """The jobs of a completion request, those of the first prompt first."""
        if request.suffix:
            raise invalid("suffix is not supported by this model")
        if request.logprobs is not None and not self.profile.logprobs:
            raise invalid(refusals.NO_LOGPROBS)
        if request.logprobs is not None and not 0 <= request.logprobs <= 20:
            raise out_of_range("logprobs", 0, 20)
        prompts = [as_tokens(prompt, model.tokenizer) for prompt in as_list(request.prompt)]
        if not prompts or not all(prompts):
            raise invalid("The prompt is empty")
        bases = [
            Job(
                id="",
                model=model.name,
                prompt=prompt,
                seed=0,
                sampling=self.sampling(request, self.plain_room(request, len(prompt), model.context)),
                begins="answer",
                stop=self.stops(request),
                salt=salt,
                deadline_s=self.limits.request_s,
                logprobs=request.logprobs is not None,
                alternatives=request.logprobs or 0,
                score_prompt=bool(request.echo) and request.logprobs is not None,
            )
            for prompt in prompts
        ]
        return list(self.several([self.adjusted(base, request, model.tokenizer) for base in bases], request))

    def several(self, bases: Sequence[Job], request: Asked) -> Iterator[Job]:
        """`n` jobs of each, with ids and seeds of their own."""
        n = 1 if request.n is None else request.n
        if n != 1 and not self.profile.several:
            raise invalid("Invalid n value (currently only n = 1 is supported)")
        most = max(1, self.limits.choices // len(bases))
        if not 1 <= n <= most or len(bases) > self.limits.choices:
            raise out_of_range("n", 1, most)
        for number, base in enumerate(bases):
            self.require_able(base)
            for sample in range(n):
                seed = secrets.randbits(63) if request.seed is None else seed_of(request.seed, 0, str(number), sample)
                yield replace(base, id=str(uuid4()), seed=seed)

    def require_able(self, job: Job) -> None:
        """Refuse what the engine that computes here does not do."""
        if self.engine == "native":
            return
        asked = {
            "response_format": bool(job.grammar),
            "max_reasoning_tokens": job.max_thought is not None,
            "logit_bias": bool(job.logit_bias),
            "frequency_penalty": bool(job.frequency_penalty),
            "presence_penalty": bool(job.presence_penalty),
            "echo with logprobs": job.score_prompt,
        }
        for name, wanted in asked.items():
            if wanted:
                raise invalid("{0} is not supported by the engine of this server (vLLM); the built-in one has it", name)

    def require_known(self, request: ChatRequest) -> None:
        """Refuse what this profile, or this server, does not do."""
        if (request.logprobs or request.top_logprobs is not None) and not self.profile.logprobs:
            raise invalid(refusals.NO_LOGPROBS)
        if request.top_logprobs is not None and not request.logprobs:
            raise invalid("Invalid top_logprobs value, it needs logprobs to be true")
        if request.top_logprobs is not None and not 0 <= request.top_logprobs <= 20:
            raise out_of_range("top_logprobs", 0, 20)
        if request.max_reasoning_tokens is not None and request.max_reasoning_tokens < 0:
            raise out_of_range("max_reasoning_tokens", 0, self.profile.most_tokens)

    def room(self, asked: int | None, prompt: int, context: int) -> int:
        """Most tokens of a completion: as asked for, which must fit, else the default, as far as it fits."""
        if asked is not None and not 1 <= asked <= self.profile.most_tokens:
            raise out_of_range("max_tokens", 1, self.profile.most_tokens)
        if prompt + (asked or 1) > context:
            raise too_long(prompt, asked or 1, context)
        return min((asked or self.profile.default_tokens) + (self.profile.most_thought or 0), context - prompt)

    def plain_room(self, request: CompletionRequest, prompt: int, context: int) -> int:
        """The same for plain text, which may also be none at all where the prompt's log-probabilities are asked for."""
        if request.max_tokens == 0 and request.echo and request.logprobs is not None:
            if prompt > context:
                raise too_long(prompt, 0, context)
            return 0
        return min(self.room(request.max_tokens, prompt, context), self.profile.most_tokens)

    def max_thought(self, request: ChatRequest) -> int | None:
        """Tokens after which the thought is closed."""
        budgets = [n for n in (request.max_reasoning_tokens, self.profile.most_thought) if n is not None]
        return min(budgets, default=None)

    def sampling(self, request: Asked, max_tokens: int) -> Sampling:
        """How to sample; fixed where the profile does not listen."""
        if not self.profile.honours_sampling:
            return replace(FIXED, max_tokens=max_tokens)
        temperature = FIXED.temperature if request.temperature is None else request.temperature
        top_p = FIXED.top_p if request.top_p is None else request.top_p
        top_k = request.top_k or 0
        if not 0 <= temperature <= 2:
            raise out_of_range("temperature", 0, 2)
        if not 0 < top_p <= 1:
            raise out_of_range("top_p", "0 (exclusive)", 1)
        if not 0 <= top_k <= 2**31:
            raise out_of_range("top_k", 0, 2**31)
        return Sampling(temperature if temperature >= COLDEST else 0.0, top_p, top_k, max_tokens)

    def adjusted(self, job: Job, request: Asked, tokenizer: Tokenizer) -> Job:
        """A job with the penalties and the bias that are asked for, where the profile listens."""
        if not self.profile.honours_sampling:
            return job
        frequency, presence = request.frequency_penalty or 0.0, request.presence_penalty or 0.0
        for name, value in (("frequency_penalty", frequency), ("presence_penalty", presence)):
            if not -2 <= value <= 2:
                raise out_of_range(name, -2, 2)
        bias = request.logit_bias or {}
        if any(not -100 <= value <= 100 for value in bias.values()):
            raise out_of_range("logit_bias", -100, 100)
        if any(not (id.isascii() and id.isdigit() and len(id) < 10) for id in bias):
            raise invalid("Invalid logit_bias value, its keys are token ids")
        known = tuple((int(id), value) for id, value in bias.items() if int(id) < tokenizer.vocab_size)
        return replace(job, frequency_penalty=frequency, presence_penalty=presence, logit_bias=known)

    def tools(self, request: ChatRequest, messages: Sequence[Message], tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """The tools that the model may use; refused where the profile or the model's template has none."""
        if request.tool_choice not in (None, "none", "auto"):
            raise invalid("Invalid tool_choice value, supported are none and auto")
        if not request.tools and not any(isinstance(one, chat.ToolTurn) for one in messages):
            return []
        if not self.profile.tools or not chat.knows_tools(tokenizer.template or ""):
            raise invalid("This model does not support tools")
        offered = [] if request.tool_choice == "none" else request.tools or []
        return [tool.model_dump(exclude_none=True) for tool in offered]

    def grammar(self, wanted: ResponseFormat | None) -> str:
        """The grammar of the answer; "" for any text."""
        if wanted is None or wanted.type == "text":
            return ""
        if not self.profile.json:
            raise invalid("deepseek-reasoner does not support response_format")
        if wanted.type == "json_object":
            return json_grammar(None)
        if wanted.json_schema is None:
            raise malformed("response_format: missing field `json_schema`")
        return json_grammar(wanted.json_schema.schema_)

    def stops(self, request: Asked) -> tuple[str, ...]:
        """Stop strings; an empty one stops nothing."""
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        if len(stops) > self.limits.stops:
            raise invalid("Invalid stop value, at most {0} stop strings are supported", self.limits.stops)
        return tuple(stop for stop in stops if stop)


def too_long(prompt: int, completion: int, context: int) -> refusals.Refusal:
    """400 for what does not fit into the context."""
    total = prompt + completion
    return invalid(refusals.CONTEXT.format(context=context, total=total, prompt=prompt, completion=completion))


# ---- conversations


def conversation(sent: Sequence[ChatMessage], profile: Profile, limits: Limits) -> tuple[list[Message], Message | None]:
    """The messages to render, and the beginning of the answer where the last message gives it."""
    if len(sent) > limits.messages:
        raise invalid("Invalid messages value, at most {0} messages are supported", limits.messages)
    *before, last = sent
    continues = last.role == "assistant" and bool(last.prefix)
    messages = [message(one, profile) for one in (before if continues else sent)]
    if continues:
        messages.append(Message("assistant", text_of(last, profile), last.reasoning_content))
    elif last.role not in ("user", "tool"):
        raise invalid(refusals.LAST)
    messages = merged(messages) if profile.lenient else alternating(messages)
    require_order(messages)
    return (messages[:-1], messages[-1]) if continues else (messages, None)


def message(sent: ChatMessage, profile: Profile) -> Message:
    """One message; a thought sent back is dropped or refused."""
    if sent.reasoning_content is not None and not profile.lenient:
        raise invalid(refusals.THOUGHT_SENT_BACK)
    role: Role = "system" if sent.role == "developer" else sent.role
    text = text_of(sent, profile)
    if role == "tool":
        return chat.ToolTurn(role, text, to=sent.tool_call_id or "")
    return chat.ToolTurn(role, text, calls=calls_of(sent)) if sent.tool_calls else Message(role, text)


def calls_of(sent: ChatMessage) -> tuple[chat.Call, ...]:
    """The calls that an assistant's message made."""
    calls = [chat.Call(call.id, call.function.name, call.function.arguments) for call in sent.tool_calls or []]
    for call in calls:
        try:
            json.dumps(json.loads(call.arguments), ensure_ascii=False).encode()  # as a template writes them
        except (ValueError, RecursionError):
            raise invalid("Invalid tool_calls value, the arguments of {0} are not JSON", repr(call.name[:40])) from None
    return tuple(calls)


def text_of(sent: ChatMessage, profile: Profile) -> str:
    """A message's text; of parts, all texts, one to a line."""
    if sent.content is None:
        if sent.role == "assistant":
            return ""
        raise malformed("messages: missing field `content`")
    if isinstance(sent.content, str):
        return sent.content
    if not profile.lenient:
        raise malformed("messages: content: invalid type: sequence, expected a string")
    for part in sent.content:
        if part.type != "text" or part.text is None:
            raise invalid("This model reads text only: a part of type {0} is not supported", repr(part.type[:40]))
    return "\n".join(part.text for part in sent.content if part.text is not None)


def merged(messages: Sequence[Message]) -> list[Message]:
    """Messages of the same role in a row as one, with a blank line between them."""
    found: list[Message] = []
    for one in messages:
        if found and found[-1].role == one.role and not isinstance(found[-1], chat.ToolTurn):
            found[-1] = replace(one, content=f"{found[-1].content}\n\n{one.content}")
        else:
            found.append(one)
    return found


def alternating(messages: Sequence[Message]) -> list[Message]:
    """The messages as they are; refused where two users or two assistants follow each other."""
    for number, (one, other) in enumerate(pairwise(messages)):
        if one.role == other.role and one.role in ("user", "assistant"):
            raise invalid(refusals.SUCCESSIVE, number, number + 1)
    return list(messages)


def require_order(messages: Sequence[Message]) -> None:
    """Refuse a conversation that does not begin with the system, or then with a user."""
    roles = [one.role for one in messages]
    turns = [role for role in roles if role != "system"]
    if "system" in roles[len(roles) - len(turns) :]:
        raise invalid(refusals.SYSTEM)
    if not turns:
        raise invalid(refusals.LAST)
    if turns[0] == "assistant":
        raise invalid(refusals.FIRST)


def rendered(
    tokenizer: Tokenizer, messages: Sequence[Message], prefix: Message | None, tools: Sequence[Mapping[str, Any]]
) -> tuple[tuple[int, ...], Begins]:
    """The prompt's tokens, and where the model goes on from."""
    assert tokenizer.template is not None
    try:
        text = chat.render(tokenizer.template, messages, bos=tokenizer.bos, eos=tokenizer.eos, tools=tools)
    except InputError as error:
        raise invalid("This model cannot read the conversation: {0}", error.found or error.what) from None
    begins: Begins = "thought" if chat.opens_thought(text) else "open"
    if prefix is not None:
        text, begins = begun(text, prefix)
    return tuple(tokenizer.encode(text)), begins


def begun(prompt: str, prefix: Message) -> tuple[str, Begins]:
    """A prompt with the beginning of the answer; without any content, the model goes on with the thought."""
    if prefix.thought is not None or chat.opens_thought(prompt):
        prompt = chat.begin_thought(prompt) + (prefix.thought or "")
        if not prefix.content:
            return prompt, "thought"
        prompt = f"{prompt.rstrip()}\n{chat.CLOSE}\n\n"
    return prompt + prefix.content, "answer" if prefix.content else "open"


# ---- plain text


def as_list(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """One or several prompts as a list of prompts."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return prompt  # type: ignore[return-value]


def as_tokens(prompt: str | list[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """A prompt's tokens."""
    if isinstance(prompt, str):
        return tuple(tokenizer.encode(prompt))
    size = tokenizer.vocab_size
    if not all(0 <= token < size for token in prompt):
        raise invalid("Invalid prompt value, token ids are in [0, {0}]", size - 1)
    return tuple(prompt)
