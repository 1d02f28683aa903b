"""Long samples that do not hold a step: what is taken, what goes on, from which weights, and that stopping is exact."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace

import pytest
import torch

from thinkery.core import Completion, Sampling, Task
from thinkery.engine import EngineConfig
from thinkery.engine.base import Request, generate
from thinkery.engine.pool import open_engines
from thinkery.errors import Stopped
from thinkery.pipeline.run import Run
from thinkery.rewards.rubric import Rubric
from thinkery.train.flights import Flight, Flights
from thinkery.train.grpo import Grpo, grpo, version_of
from thinkery.train.loss import truncated_weights
from thinkery.train.policy import PolicyConfig

TASKS = [Task(f"t{n}", f"{n}?", language="en") for n in range(40)]
LONGEST, SPAN, NEEDED, SPARE, UPDATES = 24, 4, 3, 2, 6
LOOP = Grpo(
    policy=PolicyConfig(lr=0.0), updates=UPDATES, group_size=4, questions_per_update=NEEDED, minibatches=1,
    max_tokens=((0, LONGEST),), preflight=0, old_logprobs="trainer", spare=SPARE, span=SPAN, checkpoint_every=1,
)  # fmt: skip
ENGINE = EngineConfig(max_batch=32, max_len=64, deterministic=True)
ENDS = frozenset(range(236, 257))
"""Tokens that end a sample, so that a random model writes texts of very different lengths."""


def low(task: Task, completion: Completion) -> float:
    """The share of tokens in the lower half of the vocabulary."""
    return sum(token < 128 for token in completion.tokens) / len(completion.tokens)


def train(run: Run, policy, *, reward=low, engine: EngineConfig = ENGINE, **settings):
    policy.tokenizer = replace(policy.tokenizer, stops=ENDS)
    with open_engines(policy.network, policy.tokenizer, engine) as sampler:
        grpo(run, LOOP.model_copy(update=settings), policy, sampler, TASKS, Rubric(low=reward))
    return policy


def metrics(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]


def samples(run: Run, update: int) -> list[dict]:
    with gzip.open(run.dir / "rollouts" / f"{update:06d}.jsonl.gz") as file:
        return [json.loads(line) for line in file]


def texts(run: Run) -> dict[tuple[str, int], dict]:
    rows = [row for update in range(1, UPDATES + 1) for row in samples(run, update)]
    assert len({(row["task"], row["sample"]) for row in rows}) == len(rows), "a sample was recorded twice"
    return {(row["task"], row["sample"]): row for row in rows}


def learnt(run: Run) -> list[list[str]]:
    return [[row["task"] for row in samples(run, n)[:: LOOP.group_size]] for n in range(1, UPDATES + 1)]


def first_to_end(order: list[str], spans: dict[str, int]) -> list[list[str]]:
    """The questions of each update, worked out from how many spans each needs, in the order of asking."""
    open_ones: list[list] = []
    waiting, found = list(order), []
    for update in range(UPDATES):
        later = NEEDED * (UPDATES - update - 1)
        while len(open_ones) < NEEDED + min(SPARE, later):
            open_ones.append([waiting[0], spans[waiting.pop(0)]])
        taken: list[str] = []
        while len(taken) < NEEDED:
            for one in open_ones:
                one[1] -= 1
            taken += [name for name, left in open_ones if left <= 0 and name not in taken][: NEEDED - len(taken)]
        found.append([name for name, _ in open_ones if name in taken])
        open_ones = [one for one in open_ones if one[0] not in taken]
    return found


def test_the_first_to_end_are_learnt_and_no_sample_is_lost_or_changed(make_policy, tmp_path):
    plain, carried = Run(tmp_path / "plain", "zero", seed=3), Run(tmp_path / "carried", "zero", seed=3)
    train(plain, make_policy(lr=0.0), spare=0, span=0)
    train(carried, make_policy(lr=0.0))
    whole, parts = texts(plain), texts(carried)
    assert {name: row["text"] for name, row in whole.items()} == {name: row["text"] for name, row in parts.items()}
    order = [name for update in learnt(plain) for name in update]
    spans = {name: max(math.ceil(whole[name, n]["tokens"] / SPAN) for n in range(4)) for name in order}
    assert len(set(spans.values())) > 2, "all questions are as long as each other, so this shows nothing"
    expected = first_to_end(order, spans)
    assert learnt(carried) == expected != learnt(plain)
    for update, row in enumerate(metrics(carried), 1):
        assert row["flights/open"] == min(SPARE, NEEDED * (UPDATES - update))
        for sample in samples(carried, update):
            versions = sample.get("versions", [[sample["version"], sample["tokens"]]])
            assert sum(tokens for _, tokens in versions) == sample["tokens"]
            assert all(tokens % SPAN == 0 for _, tokens in versions[:-1]), "a part does not end with a span"
    assert any("versions" in row for row in parts.values())
    assert sum(row["flights/spans"] for row in metrics(carried)) < sum(
        max(spans[name] for name in update) for update in learnt(plain)
    )


def test_tokens_keep_the_version_and_the_probability_they_were_sampled_with(make_policy):
    policy = make_policy(lr=0.0)
    task, sampling = TASKS[0], Sampling(max_tokens=4)
    with open_engines(policy.network, policy.tokenizer, ENGINE) as engine:
        request = Request((7, 8), sampling, task.messages)
        [(_, first)] = generate(engine, [request])
        before = tuple(event.completion for event in first)
        with torch.no_grad():
            policy.network.lm_head.weight.mul_(1.5)
        engine.bump(1)
        further = Request((7, 8), Sampling(max_tokens=6), task.messages, begun=before)
        [(_, second)] = generate(engine, [further])
    for old, event in zip(before, second, strict=True):
        new = event.completion
        assert (new.version, new.spans) == (0, ((0, 4), (1, 2)))
        assert new.tokens[:4] == old.tokens
        assert new.logprobs[:4] == old.logprobs
        assert len(new.tokens) == len(new.logprobs) == 6
        assert version_of(new) == pytest.approx(2 / 6)
    [one] = torch.tensor(second[0].completion.logprobs[:1]).tolist()
    assert truncated_weights(torch.tensor([one + math.log(1.5)]), torch.tensor([one]), 2.0).item() == pytest.approx(1.5)
    assert truncated_weights(torch.tensor([one + 5.0]), torch.tensor([one]), 2.0).item() == 2.0


@pytest.mark.parametrize("processes", [0, 1])
def test_a_sample_cut_into_spans_is_the_sample_in_one_piece(make_policy, processes):
    policy = make_policy()
    policy.tokenizer = replace(policy.tokenizer, stops=ENDS)
    seeds = tuple(range(6))
    engine = ENGINE.model_copy(update={"processes": processes})
    with open_engines(policy.network, policy.tokenizer, engine) as sampler:
        [(_, whole)] = generate(sampler, [Request(seeds, Sampling(max_tokens=LONGEST), TASKS[0].messages)])
        flight = Flight(0, TASKS[0], tuple(range(6)))
        for until in range(SPAN, LONGEST + 1, SPAN):
            said = tuple(flight.said[n] for n in flight.out) if flight.said else ()
            own = tuple(seeds[n] for n in flight.out)
            asked = Request(own, Sampling(max_tokens=until), TASKS[0].messages, begun=said)
            [(_, events)] = generate(sampler, [asked])
            flight = flight.heard(events, until, LONGEST)
    assert flight.out == ()
    for n, event in enumerate(whole):
        cut, uncut = flight.said[n], event.completion
        assert (cut.tokens, cut.text, cut.finish, cut.spans) == (uncut.tokens, uncut.text, uncut.finish, ())
        assert cut.logprobs == pytest.approx(uncut.logprobs, abs=1e-5)  # what was said before is computed in one pass


def test_a_sample_without_room_to_go_on_ends_as_it_is(make_policy):
    policy = make_policy()
    with open_engines(policy.network, policy.tokenizer, ENGINE) as engine:
        [(_, [first])] = generate(engine, [Request((1,), Sampling(max_tokens=4), prompt=(5,) * 60)])
        again = Request((1,), Sampling(max_tokens=20), prompt=(5,) * 60, begun=(first.completion,))
        [(_, [second])] = generate(engine, [again])
    assert second.completion == first.completion
    assert second.completion.finish == "length"


def test_a_run_that_is_stopped_goes_on_with_what_it_carried(make_policy, tmp_path):
    def stops(task: Task, completion: Completion) -> float:
        stopped.stopping = stopped.stopping or completion.version == 2
        return low(task, completion)

    steady, stopped = Run(tmp_path / "steady", "zero", seed=3), Run(tmp_path / "stopped", "zero", seed=3)
    expected = train(steady, make_policy(lr=1e-2))
    with pytest.raises(Stopped):
        train(stopped, make_policy(lr=1e-2), reward=stops)
    assert len(metrics(stopped)) < UPDATES
    again = Run(tmp_path / "stopped", "zero", seed=3, attempt=2)
    found = train(again, make_policy(seed=4, lr=1e-2))
    assert all(
        torch.equal(a, b) for a, b in zip(expected.network.parameters(), found.network.parameters(), strict=True)
    )
    assert [samples(again, n) for n in range(1, UPDATES + 1)] == [samples(steady, n) for n in range(1, UPDATES + 1)]
    assert any(len(row.get("versions", ())) > 1 for row in texts(again).values())


def test_spare_and_ahead_go_together_and_say_how_old_tokens_are(make_policy, run):
    train(run, make_policy(lr=1e-2), ahead=1, engine=ENGINE.model_copy(update={"processes": 1}))
    assert len(texts(run)) == UPDATES * NEEDED * 4
    for update, row in enumerate(metrics(run)):
        ages = []
        for sample in samples(run, update + 1):
            versions = sample.get("versions", [[sample["version"], sample["tokens"]]])
            ages.append(update - sum(v * n for v, n in versions) / sample["tokens"])
        assert row["policy/staleness"] == pytest.approx(sum(ages) / len(ages))
        assert row["policy/effective_samples"] <= 1 + 1e-6
    assert metrics(run)[3]["policy/staleness"] > 1.0


def test_flights_survive_a_checkpoint_as_they_are():
    said = {0: Completion("ab", (97, 98), (-0.1, -1 / 3), "length", version=1, spans=((1, 1), (3, 1)))}
    one = Flight(5, Task("t", "1?", info={"a": [1]}), (0,), (1, 2), said, 2)
    assert Flights.of(json.loads(json.dumps(Flights([one]).rows()))).open == [one]


def test_a_span_without_spare_is_refused():
    with pytest.raises(ValueError, match="span has no effect without spare"):
        Grpo(span=4)
