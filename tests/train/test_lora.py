"""Low-rank adapters: only they learn, the engine samples from their sum with the weights, PEFT reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from thinkery.core import Sampling
from thinkery.engine import EngineConfig, Request, generate, open_engine
from thinkery.errors import ConfigError, InputError
from thinkery.model.hf import load_model
from thinkery.model.lora import Lora, adapters
from thinkery.model.tokenizer import Tokenizer
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.run import Run
from thinkery.train.batch import Batch, Example
from thinkery.train.policy import LoraPolicy, PolicyConfig, open_policy

EXAMPLES = [Example(list(range(3, 3 + n)), learn_from=max(1, n // 2)) for n in (9, 4, 17, 6)]
CFG = PolicyConfig(lr=3e-2, lora=Lora(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj")))


@pytest.fixture
def opened(run: Run, folder: Path) -> Callable:
    """`opened(cfg)`: a policy on the tiny model."""
    return lambda cfg=CFG: open_policy(run, Model(folder, {"folder": "."}), cfg)


def train(policy: LoraPolicy, updates: int) -> list[float]:
    learnt = sum(e.learnt for e in EXAMPLES)

    def objective(batch: Batch):
        return -policy.forward(batch)[0].sum() / learnt, {}

    return [policy.update(lambda n: policy.pack(EXAMPLES, n), objective, total=10).loss for _ in range(updates)]


def flat(logprobs: list[list[float]]) -> torch.Tensor:
    return torch.tensor([value for one in logprobs for value in one])


def test_only_adapters_learn_and_the_merged_model_is_the_adapted_one(opened, folder, tmp_path):
    plain, _ = load_model(folder)
    with opened() as policy:
        assert isinstance(policy, LoraPolicy)
        untrained = flat(policy.logprobs(EXAMPLES))
        losses = train(policy, 8)
        assert losses[-1] < 0.8 * losses[0]
        frozen = {n.replace(".base.", "."): p for n, p in policy.network.named_parameters() if not p.requires_grad}
        for name, parameter in plain.named_parameters():
            assert torch.equal(frozen[name], parameter)
        assert sum(t.numel() for t in adapters(policy.network).values()) == 2 * 4 * ((32 + 32) + (32 + 16) + (64 + 32))
        policy.save_model(tmp_path / "saved")
        learnt = flat(policy.logprobs(EXAMPLES))
    with open_policy(
        Run(tmp_path / "other", "test", seed=3), Model(tmp_path / "saved", {"folder": "."}), PolicyConfig()
    ) as merged:
        assert not isinstance(merged, LoraPolicy)
        torch.testing.assert_close(flat(merged.logprobs(EXAMPLES)), learnt, atol=1e-4, rtol=1e-4)
        assert (learnt - untrained).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers
def test_peft_computes_the_same_from_the_base_and_the_adapters(opened, folder, tmp_path):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    with opened() as policy:
        train(policy, 4)
        policy.save_model(tmp_path / "saved")
        tokens = torch.tensor(EXAMPLES[2].tokens)
        with torch.no_grad():
            ours = policy.network.logits(policy.network.packed(tokens, [len(tokens)]))
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "saved" / "adapter")
    with torch.no_grad():
        theirs = model(tokens[None]).logits[0]
        untouched = model.unload()(tokens[None]).logits[0]
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert (untouched - ours).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_reads_the_adapters_of_another_architecture_with_those_of_its_head(run, folder, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.MistralConfig(
        vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    Tokenizer.load(folder).save(tmp_path / "base")
    cfg = CFG.model_copy(update={"lora": Lora(rank=4, alpha=8, targets=("q_proj", "lm_head"))})
    tokens = torch.tensor(EXAMPLES[2].tokens)
    with open_policy(run, Model(tmp_path / "base", {"folder": "."}), cfg) as policy:
        assert isinstance(policy, LoraPolicy)
        train(policy, 4)
        assert all(tensor.abs().max() > 0 for tensor in adapters(policy.network).values())
        policy.save_model(tmp_path / "saved")
        with torch.no_grad():
            ours = policy.network.logits(policy.network.packed(tokens, [len(tokens)]))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "saved" / "adapter")
    merged, _ = load_model(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[None]).logits[0], ours, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(merged.logits(merged.packed(tokens, [len(tokens)])), ours, atol=1e-4, rtol=1e-4)


def test_the_engine_samples_from_the_adapted_weights(opened):
    with opened() as policy, open_engine(policy.network, policy.tokenizer, EngineConfig()) as engine:
        train(policy, 4)
        engine.bump(policy.version)
        request = Request((1, 2), Sampling(max_tokens=12), prompt=(5, 6, 7))
        [(_, events)] = generate(engine, [request])
        for event in events:
            said = event.completion
            whole = Example([5, 6, 7, *said.tokens], learn_from=3)
            torch.testing.assert_close(flat(policy.logprobs([whole])), torch.tensor(said.logprobs), atol=1e-4, rtol=0)


def test_a_checkpoint_holds_the_adapters_alone_and_continues_bit_for_bit(opened, tmp_path):
    with opened() as policy:
        train(policy, 2)
        policy.refresh_reference()
        train(policy, 1)
        policy.save(tmp_path)
        expected, reference = train(policy, 2), policy.logprobs(EXAMPLES, reference=True)
    saved = torch.load(tmp_path / "learner.pt", weights_only=True)
    assert all("lora_" in name for name in saved["network"] | saved["reference"])
    with opened() as policy:
        policy.load(tmp_path)
        assert train(policy, 2) == expected
        assert policy.logprobs(EXAMPLES, reference=True) == reference
    other = CFG.model_copy(update={"lora": Lora(targets=("o_proj",))})
    with opened(other) as policy, pytest.raises(InputError, match="not of these adapters"):
        policy.load(tmp_path)


def test_targets_that_the_model_does_not_have_are_a_config_error(opened):
    cfg = PolicyConfig(lora=Lora(targets=("query",)))
    with pytest.raises(ConfigError, match="are called down_proj, gate_proj, k_proj"), opened(cfg):
        pass


def test_a_head_that_is_the_embedding_too_gets_no_adapters(opened):
    cfg = PolicyConfig(lora=Lora(targets=("q_proj", "lm_head")))
    with pytest.raises(ConfigError, match=r"shares its weight with the embedding .*lm_head"), opened(cfg):
        pass
