"""Clients of the API, unmodified: two turns each, streamed and not."""

from __future__ import annotations

import asyncio

import pytest
from tests.serve.conftest import ANSWER, THOUGHT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

MODEL = "deepseek-reasoner"


@pytest.fixture
def environment(server, monkeypatch):
    """The variables of `serve --print-env`."""
    for name in ("DEEPSEEK", "OPENAI"):
        monkeypatch.setenv(f"{name}_API_KEY", "any")
        monkeypatch.setenv(f"{name}_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("DEEPSEEK_API_BASE", f"{server.url}/v1")


def test_openai(environment):
    openai = pytest.importorskip("openai")
    with openai.OpenAI() as client:
        messages: list = [{"role": "user", "content": "hi"}]
        for _ in range(2):
            answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
            message = answer.choices[0].message
            assert (message.content, message.reasoning_content) == (ANSWER, THOUGHT)
            messages += [message.model_dump(exclude_none=True), {"role": "user", "content": "and?"}]
            content = reasoning = ""
            for chunk in client.chat.completions.create(model=MODEL, messages=messages, temperature=0, stream=True):
                content += chunk.choices[0].delta.content or ""
                reasoning += chunk.choices[0].delta.reasoning_content or ""
            assert (content, reasoning) == (ANSWER, THOUGHT)
        assert client.models.list().data[0].id == MODEL
        with pytest.raises(openai.BadRequestError, match="Model Not Exist"):
            client.chat.completions.create(model="other", messages=messages)
        with pytest.raises(openai.UnprocessableEntityError):
            client.chat.completions.create(model=MODEL, messages=[{"role": "boss", "content": "x"}])


def test_langchain_deepseek(environment):
    langchain = pytest.importorskip("langchain_deepseek")
    model = langchain.ChatDeepSeek(model=MODEL, temperature=0)
    messages: list = [("user", "hi")]
    for _ in range(2):
        message = model.invoke(messages)
        assert (message.content, message.additional_kwargs["reasoning_content"]) == (ANSWER, THOUGHT)
        messages += [message, ("user", "and?")]
        chunks = list(model.stream(messages))
        assert "".join(chunk.content for chunk in chunks) == ANSWER
        assert "".join(chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks) == THOUGHT


def test_pydantic_ai(environment):
    pytest.importorskip("pydantic_ai")
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.deepseek import DeepSeekProvider

    async def talk() -> None:
        async with AsyncOpenAI() as client:
            model = OpenAIChatModel(MODEL, provider=DeepSeekProvider(openai_client=client))
            agent = Agent(model, model_settings={"temperature": 0})
            first = await agent.run("hi")
            assert first.output == ANSWER
            assert THOUGHT in str(first.all_messages())
            second = await agent.run("and?", message_history=first.all_messages())
            assert second.output == ANSWER
            async with agent.run_stream("more?", message_history=second.all_messages()) as streamed:
                assert await streamed.get_output() == ANSWER

    asyncio.run(talk())


def test_openai_agents(environment):
    agents = pytest.importorskip("agents")
    from openai import AsyncOpenAI

    async def talk() -> None:
        agents.set_tracing_disabled(True)
        async with AsyncOpenAI() as client:
            model = agents.OpenAIChatCompletionsModel(model=MODEL, openai_client=client)
            settings = agents.ModelSettings(temperature=0)
            agent = agents.Agent(name="one", instructions="Be kind.", model=model, model_settings=settings)
            first = await agents.Runner.run(agent, "hi")
            assert first.final_output == ANSWER
            turns = [*first.to_input_list(), {"role": "user", "content": "and?"}]
            assert (await agents.Runner.run(agent, turns)).final_output == ANSWER
            streamed = agents.Runner.run_streamed(agent, turns)
            async for _ in streamed.stream_events():
                pass
            assert streamed.final_output == ANSWER

    asyncio.run(talk())


@pytest.mark.slow
def test_schemathesis_finds_no_failure_and_no_foreign_error(server):
    schemathesis = pytest.importorskip("schemathesis")
    import httpx
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_dict(httpx.get(f"{server.url}/openapi.json").json())

    for operation in schema.get_all_operations():
        one = operation.ok()

        @given(case=one.as_strategy())
        @settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def try_out(case) -> None:
            answer = case.call(base_url=server.url)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert set(answer.json()) == {"error"}

        try_out()
