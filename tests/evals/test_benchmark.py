"""A benchmark on a real engine with a two-layer network."""

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from thinkery.core import Sampling, Score, Task
from thinkery.engine import EngineConfig, open_engine
from thinkery.errors import UsageError
from thinkery.evals.benchmark import Benchmark, evaluate
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.rewards.rubric import Rubric


@pytest.fixture
def engine():
    words = ["<eos>", "and", *map(str, range(10))]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="and"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<eos>"])
    network = Transformer(Shape("llama", 12, 16, 32, 2, 2, 1, 8, max_position_embeddings=64))
    network.initialise(torch.Generator().manual_seed(0), std=0.5)
    tokenizer = Tokenizer(backend, eos="<eos>", template="{{ messages[-1].content }}")
    with open_engine(network, tokenizer, EngineConfig()) as engine:
        yield engine


def says(task, completion):
    return Score(float(task.gold in completion.text.split()), completion.text)


def test_estimates_are_those_of_the_groups_that_were_seen(engine):
    tasks = [Task(f"t{i}", f"{i} and {i + 1}", "exact", str(i)) for i in range(8)]
    benchmark = Benchmark("digits", tasks, Rubric(accuracy=says), Sampling(max_tokens=10), samples=4)
    groups = []
    found = evaluate(engine, benchmark, seed=7, on_group=groups.append)
    scores = [rollout.scores["accuracy"].value for group in groups for rollout in group.rollouts]
    assert len(scores) == 32
    assert found["pass@1"]["value"] == pytest.approx(sum(scores) / 32)
    assert found["pass@1"]["n"] == 8
    cut = [rollout.completion.finish == "length" for group in groups for rollout in group.rollouts]
    assert found["truncated"]["value"] == pytest.approx(sum(cut) / 32)
    assert found["answer_length"]["value"] == found["length"]["value"]  # no thoughts, so all is answer
    assert found["thought_length"]["value"] == 0.0
    again = evaluate(engine, benchmark, seed=7)
    assert again["pass@1"] == found["pass@1"]
    assert evaluate(engine, benchmark, seed=8)["length"] != found["length"]


def test_a_reward_with_the_name_of_a_metric_is_refused_before_anything_is_asked():
    with pytest.raises(UsageError, match=r"digits: two metrics have one name.*repeated"):
        Benchmark("digits", [], Rubric(accuracy=says, repeated=says))
