from __future__ import annotations

import json

import pytest

from thinkery.errors import InputError, Stopped
from thinkery.pipeline.run import Run
from thinkery.train.sft import Sft, SftPolicy, batch_of, conversation, document, load_examples, sft

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"{n}+1?"},
            {"role": "assistant", "thought": "add", "content": f"{n + 1}"},
        ]
    }
    for n in range(12)
]


def metrics(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]


def test_only_the_assistants_last_turn_is_learnt_and_its_end_carries_loss(make_policy):
    tokenizer = make_policy().tokenizer
    example = conversation(tokenizer, ROWS[3])
    learnt = [int(t) for t in example.tokens[example.learn_from :]]
    given = [int(t) for t in example.tokens[: example.learn_from]]
    assert tokenizer.decode(given) == "User: 3+1?\n\nAssistant:"
    assert tokenizer.decode(learnt) == " <think>\nadd\n</think>\n\n4"
    assert learnt[-1] == tokenizer.eos_id


def test_a_document_is_learnt_whole_and_cut_into_pieces(make_policy):
    tokenizer = make_policy().tokenizer
    first, second = document(tokenizer, "abcdef", max_tokens=4)
    assert tokenizer.decode(list(first.tokens)) == "abcd"
    assert [int(t) for t in second.tokens] == [*tokenizer.encode("def"), tokenizer.eos_id]
    assert (first.learnt, second.learnt) == (3, 3)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 20])
def test_every_token_of_a_cut_document_is_learnt_its_end_too(make_policy, count):
    tokenizer = make_policy().tokenizer
    pieces = document(tokenizer, "x" * count, max_tokens=8)
    assert sum(piece.learnt for piece in pieces) == count
    assert pieces[-1].tokens[-1] == tokenizer.eos_id
    assert max(len(piece.tokens) for piece in pieces) <= 8


def test_held_out_rows_that_are_all_too_long_keep_nobody_from_learning(make_policy, run):
    long = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x" * 300}]}
    sft(run, Sft(epochs=1, batch=12, max_tokens=200), make_policy(), ROWS, held_out=[long])
    assert "eval/loss" not in metrics(run)[-1]


def test_every_epoch_shows_every_sequence_once_in_a_new_order(make_policy):
    examples = [conversation(make_policy().tokenizer, row) for row in ROWS]
    epochs = [[e for u in range(3) for e in batch_of(examples, 3 * epoch + u, 3, 5, seed=1)] for epoch in (0, 1)]
    for epoch in epochs:
        assert len(epoch) == 12
        assert {id(e) for e in epoch} == {id(e) for e in examples}
    assert [id(e) for e in epochs[0]] != [id(e) for e in epochs[1]]


def test_a_template_whose_turns_end_otherwise_than_answers_are_learnt_to_rings(make_policy, run):
    policy = make_policy()
    policy.tokenizer = policy.tokenizer.with_template("{% for m in messages %}{{ m.content }}<eot>{% endfor %}")
    sft(run, Sft(epochs=1, batch=12), policy, ROWS)
    events = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    [alarm] = [event for event in events if event["kind"] == "alarm"]
    assert alarm["alarm"] == "template"
    assert "learnt to end with '<|end|>', the template ends earlier ones with '<eot>Why?<eot>'" in alarm["message"]


def test_training_learns_the_rows_and_measures_held_out_ones(make_policy, run):
    policy = make_policy()
    cfg = Sft(policy=SftPolicy(lr=1e-2), epochs=10, batch=4)
    policy = make_policy(**cfg.policy.model_dump())
    sft(run, cfg, policy, ROWS, held_out=ROWS[:3])
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert rows[-1]["optim/loss"] < rows[0]["optim/loss"] / 4
    assert rows[-1]["optim/lr"] == pytest.approx(1e-3)
    assert rows[-1]["eval/loss"] < 1.0
    assert "eval/loss" not in rows[0]


def test_a_stopped_run_continues_bit_for_bit(make_policy, tmp_path):
    cfg = Sft(policy=SftPolicy(lr=1e-2), epochs=3, batch=4, checkpoint_every=2)
    steady = make_policy(lr=1e-2)
    sft(Run(tmp_path / "steady", "sft", seed=3), cfg, steady, ROWS)

    stopped = Run(tmp_path / "stopped", "sft", seed=3)
    stopped.stopping = True
    with pytest.raises(Stopped):
        sft(stopped, cfg, make_policy(lr=1e-2), ROWS)
    resumed = make_policy(seed=5, lr=1e-2)
    sft(Run(tmp_path / "stopped", "sft", seed=3, attempt=2), cfg, resumed, ROWS)
    assert [row["step"] for row in metrics(stopped)] == list(range(1, 10))
    for ours, theirs in zip(resumed.network.parameters(), steady.network.parameters(), strict=True):
        assert (ours == theirs).all()


def test_conversations_that_are_too_long_are_dropped_and_counted(make_policy, run):
    long = {"messages": [ROWS[0]["messages"][0], {"role": "assistant", "content": "x" * 300}]}
    examples = load_examples(run, Sft(max_tokens=100), make_policy().tokenizer, [*ROWS, long])
    assert len(examples) == 12
    (event,) = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    assert (event["kind"], event["rows"]) == ("dropped", 1)


def test_nothing_left_to_train_on_is_an_error_that_names_the_setting(make_policy, run):
    with pytest.raises(InputError, match=r"(?s)no row is left.*sft\.max_tokens"):
        load_examples(run, Sft(max_tokens=3), make_policy().tokenizer, ROWS)


def test_a_model_that_reads_only_so_much_learns_from_what_it_can_read(make_policy, run):
    policy = make_policy()
    policy.network.longest = 100
    long = {"messages": [ROWS[0]["messages"][0], {"role": "assistant", "content": "x" * 300}]}
    sft(run, Sft(epochs=1, batch=4, policy=SftPolicy(lr=1e-2)), policy, [*ROWS, long])
    rows = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["rows"]) for row in rows if row["kind"] == "dropped"] == [("dropped", 1)]
