"""Preference data: the paper's gate against a judge behind real HTTP, and the balance of lengths."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from thinkery.chat import THINK_CHAT
from thinkery.core import Completion, Group, Rollout, Sampling
from thinkery.engine.http import HttpConfig
from thinkery.errors import Stopped
from thinkery.model.hf import load_model, save_model
from thinkery.model.locate import locate
from thinkery.pipeline.artifact import Dataset, Model, task_to_row
from thinkery.pipeline.run import Run
from thinkery.rewards.judge import Comparison
from thinkery.stages.fetch import Fetch, fetch
from thinkery.stages.preference import (
    Pairs,
    compare_answers,
    different_answers,
    pair_row,
    too_often_longer,
    warn_of_one_sided,
)
from thinkery.stages.roles import Role, compare_by_rules
from thinkery.tasks.world import general

Verdict = Callable[[str, str], str]
"""What a judge replies to answers A and B."""


def worth(answer: str) -> int:
    """What the judge thinks of an answer: three grades that have nothing to do with its length."""
    return blake2b(answer.encode(), digest_size=1).digest()[0] % 3


def by_worth(a: str, b: str) -> str:
    """An honest judge, who has nothing to say about some answers when they are shown first."""
    if blake2b(f"{a}?".encode(), digest_size=1).digest()[0] % 16 == 0:
        return "Both have their merits."
    verdict = {2: "A>>B", 1: "A>B", 0: "A=B", -1: "B>A", -2: "B>>A"}[worth(a) - worth(b)]
    return f"I compared them. My verdict is [[{verdict}]]"


@contextmanager
def judging(verdict: Verdict) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that plays the judge; yields its address and what it was asked and replied."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            shown = body["messages"][-1]["content"]
            a, _, b = shown.partition("# Answer A\n")[2].partition("\n\n# Answer B\n")
            content = verdict(a, b)
            heard.append({"prompt": shown.partition("\n\n# Answer A")[0], "a": a, "b": b, "reply": content})
            reply = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """72 prompts of the embedded world without a rule, some of them harmful."""
    writer = Run(tmp_path_factory.mktemp("general"), "general").dataset()
    for n, task in enumerate(general("train", 5, 72)):
        writer.add(task_to_row(task), f"{n:04d}")
    return writer.finish()


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The embedded base model with a chat template."""
    folder = tmp_path_factory.mktemp("speaker")
    network, tokenizer = load_model(locate("tiny"))
    save_model(folder / "weights", network, tokenizer.with_template(THINK_CHAT))
    return fetch(Run(folder / "step", "speaker"), Fetch(model=str(folder / "weights")))


def gate(folder: Path, speaker: Model, prompts: Dataset, url: str, stopping: bool = False) -> Dataset:
    """Pairs of the embedded model's answers; a run that is stopping ends after the first chunk."""
    run = Run(folder, "pairs", seed=3)
    run.stopping = stopping
    role = Role(who="endpoint", endpoint=HttpConfig(url=url, model="judge", concurrency=4))
    settings = Pairs(sampling=Sampling(max_tokens=24), judge=role, chunk=16)
    return compare_answers(run, settings, speaker, prompts)


@pytest.fixture(scope="module")
def judged(speaker: Model, prompts: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, list[dict]]:
    """What an honest judge let through, and everything it was asked and replied."""
    with judging(by_worth) as (url, heard):
        return gate(tmp_path_factory.mktemp("judged"), speaker, prompts, url), heard


def test_the_gate_keeps_clear_pairs_of_balanced_lengths_and_counts_everything_else(
    judged: tuple[Dataset, list[dict]],
) -> None:
    pairs, heard = judged
    shown: dict[tuple[str, frozenset[str]], list[dict]] = {}
    for one in heard:
        shown.setdefault((one["prompt"], frozenset((one["a"], one["b"]))), []).append(one)
    assert {len(four) for four in shown.values()} == {4}
    assert all(sorted(Counter(one["a"] for one in four).values()) == [2, 2] for four in shown.values())

    failed = [four for four in shown.values() if any("[[" not in one["reply"] for one in four)]
    clear = [
        four for four in shown.values() if four not in failed and abs(worth(four[0]["a"]) - worth(four[0]["b"])) > 1
    ]
    funnel, rows = pairs.funnel, list(pairs.rows())
    assert funnel["different answers"] == len(shown) <= funnel["prompts"] == 64
    assert funnel["judgements"] == len(heard) == 4 * len(shown)
    assert funnel["unreadable judgements"] == sum("[[" not in one["reply"] for one in heard) > 0
    assert funnel["dropped: a verdict could not be read"] == len(failed)
    assert funnel["dropped: no clear difference"] == len(shown) - len(failed) - len(clear)
    assert funnel["dropped: for the balance of lengths"] == len(clear) - len(rows)
    assert funnel["kept"] == len(rows) > 0

    longer = [len(row["chosen"]["content"]) - len(row["rejected"]["content"]) for row in rows]
    assert sum(by > 0 for by in longer) == sum(by < 0 for by in longer)
    mean = sum(len(row["chosen"]["content"]) for row in rows) / len(rows)
    assert pairs.meta["balance"]["mean_chosen_characters"] == mean
    for row in rows:
        assert worth(row["chosen"]["content"]) - worth(row["rejected"]["content"]) == row["difference"] == 2
        assert row["verdicts"] == [2.0] * 4


def test_a_judge_of_first_answers_lets_no_pair_through(speaker: Model, prompts: Dataset, tmp_path: Path) -> None:
    with judging(lambda a, b: "[[A>>B]]") as (url, _):
        pairs = gate(tmp_path, speaker, prompts, url)
    assert len(pairs) == 0
    assert pairs.funnel["dropped: no clear difference"] == pairs.funnel["different answers"] > 0
    assert pairs.funnel["unreadable judgements"] == 0


def test_a_gate_stopped_between_chunks_ends_with_the_same_pairs(
    judged: tuple[Dataset, list[dict]], speaker: Model, prompts: Dataset, tmp_path: Path
) -> None:
    whole, asked = judged
    with judging(by_worth) as (url, heard):
        with pytest.raises(Stopped):
            gate(tmp_path, speaker, prompts, url, stopping=True)
        continued = gate(tmp_path, speaker, prompts, url)
    assert len(heard) == len(asked)
    assert continued.manifest["content"] == whole.manifest["content"]
    assert continued.funnel == whole.funnel


def test_of_the_longer_side_those_pairs_stay_that_outweigh_the_shorter_ones() -> None:
    longer = {"a": 1, "b": 30, "c": 7, "d": 90, "e": 31, "short": -29, "shorter": -9, "equal": 0}
    assert too_often_longer(longer, seed=0) == ["a", "e", "d"]  # b weighs as much as short, c as shorter
    upside_down = {key: -by for key, by in longer.items()}
    assert too_often_longer(upside_down, seed=0) == ["a", "e", "d"]
    assert too_often_longer({"a": 1, "b": -1, "c": 0}, seed=0) == []
    assert too_often_longer({"a": 1, "c": 0}, seed=0) == ["a"]
    assert too_often_longer({}, seed=0) == []


def test_the_balance_of_many_pairs_leaves_chosen_and_rejected_answers_of_one_length() -> None:
    rng = random.Random(1)
    longer = {str(n): round(rng.gauss(150, 200)) for n in range(4000)}
    dropped = set(too_often_longer(longer, seed=0))
    kept = [by for key, by in longer.items() if key not in dropped]
    assert sum(by > 0 for by in kept) == sum(by < 0 for by in kept) == sum(by < 0 for by in longer.values())
    assert abs(sum(kept) / len(kept)) < 3 < 100 < sum(longer.values()) / len(longer)


def test_the_world_judges_each_pair_four_times_in_both_orders() -> None:
    task = next(t for t in general("train", 0, 50) if t.info["topic"] == "colour" and t.language == "en")
    good = Completion("", answer=f"The answer is {task.info['must'][0]}. I hope this helps.")
    bad = Completion("", answer="tea")
    (better, worse) = compare_by_rules([(task, good, bad), (task, bad, good)], times=4, seed=1)
    assert better.scores == (2.0, 2.0, 2.0, 2.0)
    assert worse.mean == -2.0


@pytest.mark.parametrize(
    ("funnel", "seen"),
    [
        ({"safe": 794, "unsafe": 6}, "6 responses are labelled unsafe, too few for a reward model to know them"),
        ({"unsafe": 50}, "0 responses are labelled safe, too few for a reward model to know them"),
        ({"safe": 30, "unsafe": 30, "dropped: a label could not be read": 1}, None),
    ],
)
def test_labels_of_one_kind_ring(tmp_path: Path, funnel: dict[str, int], seen: str | None) -> None:
    run = Run(tmp_path, "labels")
    warn_of_one_sided(run, funnel)
    log = tmp_path / "events.jsonl"
    rung = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert [row["message"] for row in rung if row["kind"] == "alarm"] == ([seen] if seen else [])


def test_a_row_shows_the_chosen_answer_and_its_verdicts() -> None:
    task = next(general("train", 0, 1))
    row = pair_row(task, Completion("", answer="tea"), Completion("", answer="snow"), Comparison((-2.0, -1.0), 0))
    assert row["chosen"]["content"] == "snow"
    assert row["rejected"]["content"] == "tea"
    assert (row["difference"], row["verdicts"]) == (1.5, [2.0, 1.0])
    assert row["messages"] == [{"role": "user", "content": task.prompt, "thought": None}]


def test_a_group_of_equal_answers_makes_no_pair() -> None:
    task = next(general("train", 0, 1))
    rollouts = tuple(Rollout(task, (), Completion("", answer=a)) for a in ("x", "x ", "y"))
    assert different_answers(Group(task, rollouts[:2])) is None
    found = different_answers(Group(task, rollouts))
    assert found is not None
    assert found[2].answer == "y"
