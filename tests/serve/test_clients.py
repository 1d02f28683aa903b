"""Clients of the API, unmodified: two turns each, streamed and not."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.serve.conftest import ANSWER, THOUGHT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

MODEL = "deepseek-reasoner"

CLIENTS = Path.home() / ".cache" / "thinkery-bench" / "clients"
"""Where `make clients` installs the clients that bring too much for the environment of the tests."""


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


def said_by(*command: object) -> list:
    """The lines of JSON that a client's own program prints, run where the clients are."""
    if not (CLIENTS / "node_modules").is_dir():
        pytest.skip("the clients are not installed: make clients")
    done = subprocess.run([str(word) for word in command], cwd=CLIENTS, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


INSPECT = """
import asyncio, json
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

async def talk():
    for stream in (False, True):
        model = get_model("openai-api/deepseek/deepseek-reasoner", config=GenerateConfig(temperature=0), stream=stream)
        messages = [ChatMessageUser(content="hi")]
        for _ in range(2):
            answer = await model.generate(messages)
            thoughts = [part.reasoning for part in answer.message.content if part.type == "reasoning"]
            print(json.dumps([answer.completion, *thoughts]))
            messages += [answer.message, ChatMessageUser(content="and?")]

asyncio.run(talk())
"""


@pytest.mark.slow
def test_inspect_ai(environment):
    assert said_by(CLIENTS / "bin" / "python", "-c", INSPECT) == [[ANSWER, THOUGHT]] * 4


TASK = """
task: greeting
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
fewshot_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["zzz"], temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.mark.slow
def test_lm_eval(environment, server, tmp_path):
    (tmp_path / "greeting.yaml").write_text(TASK.format(folder=tmp_path))
    rows = [{"question": question, "answer": ANSWER} for question in ("hi", "what is red")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    at = f"model={MODEL},base_url={server.url}/v1/chat/completions,tokenizer_backend=None"
    words = f"--model local-chat-completions --model_args {at} --include_path {tmp_path} --tasks greeting"
    turns = "--num_fewshot 1 --apply_chat_template --fewshot_as_multiturn True"
    said_by(CLIENTS / "bin" / "lm_eval", *words.split(), *turns.split(), "--output_path", tmp_path / "out")
    (found,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(found.read_text())["results"]["greeting"]["exact_match,none"] == 1.0


AI_SDK = """
import { createDeepSeek } from "@ai-sdk/deepseek";
import { generateText, streamText } from "ai";

const model = createDeepSeek({ baseURL: process.env.DEEPSEEK_BASE_URL })("deepseek-reasoner");
const messages = [{ role: "user", content: "hi" }];
for (let turn = 0; turn < 2; turn++) {
  const { text, reasoningText, response } = await generateText({ model, messages, temperature: 0 });
  console.log(JSON.stringify([text, reasoningText]));
  const streamed = streamText({ model, messages, temperature: 0 });
  console.log(JSON.stringify([await streamed.text, await streamed.reasoningText]));
  messages.push(...response.messages, { role: "user", content: "and?" });
}
"""


@pytest.mark.slow
def test_the_ai_sdk(environment):
    node = shutil.which("node") or pytest.skip("needs node")
    assert said_by(node, "--input-type=module", "-e", AI_SDK) == [[ANSWER, THOUGHT]] * 4


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
