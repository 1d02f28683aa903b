"""A model that thinks before it answers, a server that serves it, and clients of that server."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from thinkery.chat import THINK_CHAT
from thinkery.core import Message
from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer

THOUGHT = "Somebody is asking me something, so I say hello."
ANSWER = "Hello there, how are you?"
CALLS = (
    'I add.\n<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>\n'
    '<tool_call>{"name": "now"}</tool_call>'
)

TOOL_CHAT = """\
{%- if tools %}system: {{ tools | map(attribute="function.name") | join(", ") }}

{% endif %}
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{%- if message.role == "assistant" %}{{ eos_token }}{% endif %}


{% endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""
"""A chat template that knows tools, of which it tells the names as the system."""


@pytest.fixture(scope="session")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two layers that learnt by heart to think THOUGHT and to say ANSWER, whatever it is asked."""
    return taught(tmp_path_factory.mktemp("models") / "thinker", head_dim=16)


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a network that says CALLS, with the tools "add" and "now" and without."""
    folder = tmp_path_factory.mktemp("models") / "caller"
    return taught(folder, head_dim=16, answer=CALLS, template=TOOL_CHAT, system="add, now")


def taught(folder: Path, *, head_dim: int, answer: str = ANSWER, template: str = THINK_CHAT, system: str = "") -> Path:
    """Such a network, with four heads of this width, in a folder; every other question follows the system's words."""
    import torch
    from torch.nn import functional as F

    from thinkery.model.hf import save_model
    from thinkery.model.transformer import Shape, Transformer

    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokenizer = Tokenizer.load(locate("tiny")).with_template(template)
    network = Transformer(Shape("llama", 1024, 64, 128, 2, 4, 2, head_dim, max_position_embeddings=4096))
    network.initialise(torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    rng = random.Random(1)
    for step in range(120):
        before = [Message("system", system)] if system and step % 2 else []
        prompt, target = tokenizer.conversation([*before, *asked(rng), Message("assistant", answer, THOUGHT)])
        tokens = torch.tensor(prompt + target)
        logits = network.logits(network.packed(tokens, [len(tokens)])[len(prompt) - 1 : -1])
        loss = F.cross_entropy(logits, tokens[len(prompt) :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    save_model(folder, network, tokenizer)
    return folder


def asked(rng: random.Random) -> list[Message]:
    """One to three questions of random words, each but the last one answered."""
    turns = []
    for _ in range(rng.randint(1, 3)):
        words = " ".join(
            rng.choice(["ball", "cup", "what", "two", "is", "red", "why", "sum"]) for _ in range(rng.randint(1, 30))
        )
        turns += [Message("user", words), Message("assistant", ANSWER)]
    return turns[:-1]


@pytest.fixture
def talker(thinker: Path, tmp_path: Path) -> Path:
    """The thinker with room for 65,536 tokens, which no machine fills before a client has hung up."""
    folder = shutil.copytree(thinker, tmp_path / "talker")
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**shape, "max_position_embeddings": 65_536}))
    return folder


@dataclass
class Serving:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen
    log: Path

    def client(self, **headers: str) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=240)


@contextmanager
def serving(*words: object, folder: Path) -> Iterator[Serving]:
    """`thinkery serve` with these words, run in `folder` until the block ends."""
    command = [sys.executable, "-m", "thinkery.cli", "serve", *map(str, words), "port=0", "threads=1"]
    log = folder / "serve.log"
    with open(log, "w") as stderr:
        process = subprocess.Popen(command, cwd=folder, stderr=stderr)
    try:
        while " at http" not in (text := log.read_text()):
            assert process.poll() is None, text
            time.sleep(0.05)
        yield Serving(text.split(" at ")[1].split()[0], process, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def server(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The thinker, served with the defaults."""
    with serving(thinker, folder=tmp_path_factory.mktemp("serving")) as one:
        yield one


@pytest.fixture
def client(server: Serving) -> Iterator[httpx.Client]:
    """A client of the server with the defaults."""
    with server.client() as one:
        yield one


def chat(client: httpx.Client, *contents: str, **more: object) -> httpx.Response:
    """Ask with these messages, of users and assistants in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    body = {"model": "deepseek-reasoner", "messages": messages, "temperature": 0, **more}
    return client.post("/chat/completions", json=body)


def endless() -> dict:
    """A request that says very much."""
    return {
        "model": "deepseek-reasoner",
        "messages": [{"role": "user", "content": "hi"}],
        "logit_bias": {"0": -100},
        "max_tokens": 60_000,
        "stream": True,
    }


def rows(path: Path) -> list[dict]:
    """The requests in a ledger, the oldest first."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM ledger ORDER BY time")]


def events(response: httpx.Response) -> list[dict]:
    """The data of a stream, which ends as it should."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *lines, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines if not line.startswith(":")]
