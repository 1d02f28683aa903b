from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from thinkery.core import Completion, Message, Task
from thinkery.errors import EnvironmentLacks, InputError
from thinkery.pipeline.memory import memory
from thinkery.pipeline.run import Run
from thinkery.rewards.preference import PreferenceReward, RewardModel, reading
from thinkery.train.optim import Learner
from thinkery.train.preference import (
    RewardModelConfig,
    RewardPolicy,
    as_pair,
    judged,
    objective,
    open_reward_model,
    packing,
    right,
    train_reward_model,
)


def answer(text: str, thought: str | None = None) -> dict:
    return {"role": "assistant", "content": text, "thought": thought}


def pairs(count: int, seed: int) -> list[dict]:
    """Polite answers are better."""
    draw = random.Random(seed)
    ask = [{"role": "user", "content": "hi"}]
    words = ["".join(draw.choices("abcdef", k=draw.randint(1, 6))) for _ in range(count)]
    return [{"messages": ask, "chosen": answer(f"{w} please"), "rejected": answer(f"{w} go now")} for w in words]


def labels(count: int, seed: int) -> list[dict]:
    """Bad thoughts are unsafe, whatever the answer."""
    draw = random.Random(seed)
    good = [draw.random() < 0.5 for _ in range(count)]
    return [
        {"messages": [{"role": "user", "content": "hi"}, answer("ok", "nice idea" if g else "evil plan")], "label": g}
        for g in good
    ]


PAIRWISE = RewardModelConfig(policy=RewardPolicy(lr=5e-3, micro_batch_tokens=200), epochs=6, batch=8)
POINTWISE = RewardModelConfig(policy=RewardPolicy(lr=5e-3), loss="pointwise", reads="all", epochs=6, batch=8)


def test_pairs_teach_an_order_that_holds_for_unseen_answers(folder, run):
    model = RewardModel.start(folder)
    found = train_reward_model(run, PAIRWISE, model, pairs(40, seed=1), held_out=pairs(20, seed=2))
    assert found["train/rows"] == 40
    assert found["eval/accuracy"] >= 0.9
    rows = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["optim/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert rows[0]["preference/accuracy"] == 0.5
    assert rows[-1]["eval/accuracy"] == found["eval/accuracy"]


def test_labels_teach_a_safety_model_that_reads_the_thought(folder, run, tmp_path):
    model = RewardModel.start(folder)
    found = train_reward_model(run, POINTWISE, model, labels(40, seed=1), held_out=labels(20, seed=2))
    assert found["eval/accuracy"] >= 0.9
    model.save(tmp_path / "safety")
    task = Task("t", "hi")
    nice = Completion("", thought="nice idea", answer="ok", closed=True)
    evil = Completion("", thought="evil plan", answer="ok", closed=True)
    everything = PreferenceReward(tmp_path / "safety", reads="all").batch([(task, nice), (task, evil)])
    assert everything[0].value > 0 > everything[1].value
    only_answer = PreferenceReward(tmp_path / "safety", reads="answer").batch([(task, nice), (task, evil)])
    assert only_answer[0].value == pytest.approx(only_answer[1].value, abs=1e-5)


def test_a_saved_reward_model_scores_the_same_in_transformers(folder, tmp_path):
    model = RewardModel.start(folder)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    model.save(tmp_path / "rm")
    asked = [Message("user", "hi")]
    sequences = [reading(model.tokenizer, asked, Message("assistant", text), "answer") for text in ("yes", "no, never")]
    ours = model.scores(sequences)
    assert RewardModel.load(tmp_path / "rm").scores(sequences) == ours

    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert theirs.config.num_labels == 1
    assert theirs.config.pad_token_id == model.tokenizer.pad_id
    longest = max(map(len, sequences)) + 1
    padded = torch.tensor([s + [model.tokenizer.pad_id] * (longest - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    with torch.no_grad():
        scores = theirs(padded, attention_mask=mask).logits[:, 0]
    torch.testing.assert_close(scores, torch.tensor(ours), atol=1e-5, rtol=1e-5)


def test_a_restarted_reward_model_training_continues_bit_for_bit(folder, tmp_path):
    cfg = PAIRWISE.model_copy(update={"epochs": 2, "checkpoint_every": 3})
    steady = RewardModel.start(folder)
    train_reward_model(Run(tmp_path / "a", "rm", seed=1), cfg, steady, pairs(40, seed=1))
    first = Run(tmp_path / "b", "rm", seed=1)
    first.stopping = True
    with pytest.raises(Exception, match="stopped on request"):
        train_reward_model(first, cfg, RewardModel.start(folder), pairs(40, seed=1))
    resumed = RewardModel.start(folder)
    train_reward_model(Run(tmp_path / "b", "rm", seed=1, attempt=2), cfg, resumed, pairs(40, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), steady.parameters(), strict=True))


def test_rows_that_are_too_long_are_dropped_and_counted(folder, run):
    rows = [*pairs(4, seed=1), {**pairs(1, seed=2)[0], "rejected": answer("x" * 200)}]
    cfg = RewardModelConfig(policy=PAIRWISE.policy, max_tokens=100)
    assert train_reward_model(run, cfg, RewardModel.start(folder), rows)["train/rows"] == 4
    dropped = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    assert [event["rows"] for event in dropped if event["kind"] == "dropped"] == [1]


def test_a_language_model_is_not_taken_for_a_reward_model(folder):
    with pytest.raises(InputError, match="not a reward model"):
        RewardModel.load(folder)


def test_a_text_longer_than_the_model_is_ungraded(folder, tmp_path):
    RewardModel.start(folder).save(tmp_path / "rm")
    reward = PreferenceReward(tmp_path / "rm", reads="answer")
    long, short = Completion("", answer="x" * 300), Completion("", answer="x")
    scores = reward.batch([(Task("t", "hi"), long), (Task("t", "hi"), short)])
    assert [score.value for score in scores] == [None, 0.0]
    assert "256 positions" in scores[0].reason


def test_a_tie_counts_half(folder):
    margins, targets = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 0.0])
    assert right(margins, targets).tolist() == [0.5, 1.0, 1.0]
    assert judged(torch.tensor([3.0, 1.0]), [*_one_pair(folder)])[0].tolist() == [2.0]


def _one_pair(folder):
    from thinkery.train.preference import as_pair

    return [as_pair(RewardModel.start(folder).tokenizer, pairs(1, seed=1)[0], "answer")]


def test_a_reward_model_that_cannot_be_trained_here_is_refused_before_it_is_loaded(folder):
    numbers = memory()[1] // 8  # 4 bytes each are there to load it, 16 to train it are not
    header = json.dumps({"weight": {"dtype": "U8", "shape": [numbers], "data_offsets": [0, numbers]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + numbers)  # a hole: nothing is stored
    with pytest.raises(EnvironmentLacks, match="too little memory to train this model") as refused:
        open_reward_model(folder, PAIRWISE)
    assert "policy.lora" not in refused.value.hint  # which reward models do not have


def test_reward_models_learn_in_the_arithmetic_that_is_set(folder, tmp_path):
    """Losses in bfloat16 are near those in float32 and not the same; weights stay in float32."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        model = RewardModel.start(folder)
        torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
        items = [as_pair(model.tokenizer, row, "answer") for row in pairs(8, seed=1)]
        policy = RewardPolicy(dtype=dtype)
        learner = Learner(model, policy)
        found = learner.update(packing(items, learner.device), objective(model, len(items), policy), total=1)
        losses[dtype] = found.loss
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
