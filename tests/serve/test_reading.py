"""The three versions of the contract: what each takes, refuses and ignores."""

from __future__ import annotations

import sys

import pytest

from thinkery.chat import THINK_CHAT
from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.config import Limits
from thinkery.serve.profiles import PROFILES
from thinkery.serve.reading import Readable, Reader
from thinkery.serve.refusals import Refusal
from thinkery.serve.wire import ChatRequest, CompletionRequest

MODEL = Readable("m", Tokenizer.load(locate("tiny")).with_template(THINK_CHAT), 65_536)
STRICT = ("r1-2025-01", "r1-0528")
TWO_USERS = [{"role": "user", "content": "x"}] * 2
THOUGHT_BACK = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "y", "reasoning_content": "z"},
    {"role": "user", "content": "x"},
]
BEGUN = [{"role": "assistant", "content": content, "prefix": True} for content in ("y", "z", "y\n\nz")]


def read(profile, **body):
    """The jobs of a request."""
    body = {"model": "deepseek-reasoner", "messages": [{"role": "user", "content": "x"}], **body}
    return Reader(PROFILES[profile], Limits()).chat(ChatRequest.model_validate(body), MODEL, "key")


def refusal(profile, **body) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        read(profile, **body)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    ("profile", "whole", "answer", "most"),
    [("compat", 32_768, None, 65_536), ("r1-0528", 32_768, None, 65_536), ("r1-2025-01", 36_864, 4096, 8192)],
)
def test_what_max_tokens_limits_and_how(profile, whole, answer, most):
    (job,) = read(profile)
    assert (job.sampling.max_tokens, job.max_answer) == (whole, answer)
    (job,) = read(profile, max_tokens=100)
    thought = 32_768 if profile == "r1-2025-01" else 0
    assert (job.sampling.max_tokens, job.max_answer) == (100 + thought, 100 if thought else None)
    message = f"Invalid max_tokens value, the valid range of max_tokens is [1, {most}]"
    assert refusal(profile, max_tokens=most + 1) == (400, message)


@pytest.mark.parametrize("profile", STRICT)
def test_strict_profiles_refuse_what_the_api_refused(profile):
    assert refusal(profile, messages=TWO_USERS) == (
        400,
        "deepseek-reasoner does not support successive user or assistant messages (messages[0] and messages[1] in "
        "your input). You should interleave the user/assistant messages in the message sequence.",
    )
    assert refusal(profile, messages=THOUGHT_BACK)[1].startswith("The reasoning_content is an intermediate result")
    assert "(messages[1] and messages[2] in your input)" in refusal(profile, messages=[TWO_USERS[0], *BEGUN[:2]])[1]
    assert read(profile, messages=[TWO_USERS[0], BEGUN[0]])[0].begins == "answer"
    assert refusal(profile, messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}])[0] == 422
    assert refusal(profile, logprobs=True)[0] == 400
    assert refusal(profile, n=2)[0] == 400
    with pytest.raises(Refusal, match="does not support logprobs"):
        Reader(PROFILES[profile], Limits()).completions(
            CompletionRequest.model_validate({"model": "m", "prompt": "x", "logprobs": 1}), MODEL, "key"
        )


@pytest.mark.parametrize("profile", STRICT)
def test_strict_profiles_sample_as_they_like(profile):
    (job,) = read(profile, temperature=0, top_p=0.1, presence_penalty=2, frequency_penalty=2)
    assert (job.sampling.temperature, job.sampling.top_p) == (0.6, 0.95)
    assert (job.presence_penalty, job.frequency_penalty) == (0, 0)


def test_the_tolerant_profile_takes_what_clients_send():
    (job,) = read("compat", messages=TWO_USERS, temperature=0, max_completion_tokens=7, max_reasoning_tokens=3)
    assert (job.sampling.temperature, job.sampling.max_tokens, job.max_thought) == (0, 7, 3)
    assert MODEL.tokenizer.decode(job.prompt) == MODEL.tokenizer.decode(
        read("compat", messages=[{"role": "user", "content": "x\n\nx"}])[0].prompt
    )
    found = [read("compat", messages=[TWO_USERS[0], *begun])[0].prompt for begun in (BEGUN[:2], BEGUN[2:])]
    assert found[0] == found[1]
    (job,) = read("compat", messages=THOUGHT_BACK)
    assert "z" not in MODEL.tokenizer.decode(job.prompt)


def test_json_without_the_grammar_library_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)  # what Python finds of a package that is not there
    message = "response_format needs a package that this server lacks: pip install 'thinkery[grammar]'"
    assert refusal("compat", response_format={"type": "json_object"}) == (400, message)
    assert read("compat", response_format={"type": "text"})[0].grammar == ""


def test_a_default_limit_gives_way_to_the_context():
    jobs = read("compat", messages=[{"role": "user", "content": "one two " * 8000}])
    assert len(jobs[0].prompt) + jobs[0].sampling.max_tokens == 65_536


def test_samples_of_a_request_have_seeds_of_their_own():
    seeds = [job.seed for job in read("compat", n=3, seed=5)]
    assert len(set(seeds)) == 3
    assert seeds == [job.seed for job in read("compat", n=3, seed=5)]
    assert seeds != [job.seed for job in read("compat", n=3)]


def test_tools_are_for_templates_that_know_them():
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    assert refusal("compat", tools=[tool]) == (400, "This model does not support tools")
    template = (
        "{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}{% for m in messages %} {{ m.role }}:"
        "{{ m.content }}{% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}{% endfor %}{% endfor %}"
    )
    model = Readable("m", MODEL.tokenizer.with_template(template), 4096)
    messages = [
        {"role": "user", "content": "2 + 3?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}],
        },
        {"role": "tool", "content": "5", "tool_call_id": "c"},
    ]
    body = {"model": "m", "messages": messages, "tools": [tool]}
    (job,) = Reader(PROFILES["compat"], Limits()).chat(ChatRequest.model_validate(body), model, "key")
    assert job.calls
    assert MODEL.tokenizer.decode(job.prompt) == (
        '[add] user:2 + 3? assistant:<tool_call>{"name": "add", "arguments": {"a": 2}} tool:5'
    )
