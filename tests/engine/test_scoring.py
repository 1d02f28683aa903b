"""What a model thinks of a text that is given, computed in parts of any size."""

from __future__ import annotations

import pytest
import torch

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.engine.native.scoring import TextScore

TEXT = tuple(int(token) for token in torch.randint(3, 200, (120,), generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize(
    "cfg",
    [
        EngineConfig(max_batch=4, kv_memory=0.01),
        EngineConfig(max_batch=4, kv_memory=0.01, kernels="torch"),
        EngineConfig(max_batch=8, deterministic=True),
    ],
    ids=["compiled", "torch", "deterministic"],
)
def test_a_text_scored_in_parts_has_the_networks_own_log_probabilities(network, tokenizer, cfg):
    with torch.inference_mode():
        logits = network.logits(network.packed(torch.tensor(TEXT), [len(TEXT)]))[:-1]
        expected = logits.log_softmax(-1)
    with open_engine(network, tokenizer, cfg) as engine:
        work, found = TextScore(engine, TEXT, "", 3), []
        while not work.complete:
            found += work.advance(50)
            assert (work.done, len(found)) in [(50, 50), (100, 100), (119, 119)]
    said = expected.gather(1, torch.tensor(TEXT[1:])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor([one.logprob for one in found]), said, atol=1e-4, rtol=0)
    likeliest = torch.tensor([[p for _, p in one.alternatives] for one in found])
    torch.testing.assert_close(likeliest, expected.topk(3).values, atol=1e-4, rtol=0)


def test_a_scored_text_is_a_known_beginning_for_who_may_know_it(network, tokenizer):
    asked = [Request((1,), Sampling(max_tokens=1), prompt=TEXT, salt=salt) for salt in ("mine", "other")]
    with open_engine(network, tokenizer, EngineConfig(max_batch=4, kv_memory=0.01)) as engine:
        TextScore(engine, TEXT, "mine", 0).advance(1000)
        mine, other = (next(generate(engine, [one]))[1][0] for one in asked)
    assert (mine.known, other.known) == (64, 0)
    assert mine.completion.tokens == other.completion.tokens


def test_a_text_of_one_token_has_nothing_to_score(network, tokenizer):
    with open_engine(network, tokenizer, EngineConfig(max_batch=4, kv_memory=0.01)) as engine:
        assert TextScore(engine, TEXT[:1], "", 3).complete
