"""Other architectures through transformers: same interface, same logits, gradients, and back to disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
)

from thinkery.errors import InputError
from thinkery.model.adapter import Adapted, read_shape
from thinkery.model.hf import check_model, load_model, save_model

SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=2, bos_token_id=1),
    "gemma": GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=16),
    "gemma2": Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
    "phi": PhiConfig(**SIZES),
    "granite": GraniteConfig(**SIZES, num_key_value_heads=2, logits_scaling=4.0),
    "mistral": MistralConfig(**SIZES, num_key_value_heads=2),
    "opt": OPTConfig(
        vocab_size=260,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        eos_token_id=2,
        bos_token_id=1,
    ),
}
LENGTHS = [3, 7, 5]


def tokens() -> torch.Tensor:
    return torch.randint(3, 259, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


def write(folder: Path, config, tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_another_architecture_gives_its_own_logits(family, tokenizer, tmp_path):
    theirs = write(tmp_path, CONFIGS[family], tokenizer)
    network, _ = load_model(tmp_path)
    assert isinstance(network, Adapted)
    assert (network.shape.family, network.shape.vocab_size, network.shape.hidden_size) == (family, 260, 32)
    logits = network.logits(network.packed(tokens(), LENGTHS))
    with torch.no_grad():
        expected = torch.cat([theirs(part[None]).logits[0] for part in tokens().split(LENGTHS)])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_it_learns_and_is_written_back(tokenizer, tmp_path):
    write(tmp_path / "start", CONFIGS["gpt2"], tokenizer)
    network, _ = load_model(tmp_path / "start")
    network.logits(network.packed(tokens(), LENGTHS)).square().mean().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad
    save_model(tmp_path / "end", network, tokenizer, card="# Learned\n")
    again, its_tokenizer = load_model(tmp_path / "end")
    assert torch.equal(again.packed(tokens(), LENGTHS), network.packed(tokens(), LENGTHS))
    assert its_tokenizer.eos_ids == {2}
    assert "# Learned" in (tmp_path / "end" / "README.md").read_text()


def test_dropout_stays_off_while_training(tokenizer, tmp_path):
    write(tmp_path, CONFIGS["gpt2"], tokenizer)
    network = load_model(tmp_path)[0].train()
    assert torch.equal(network.packed(tokens(), LENGTHS), network.packed(tokens(), LENGTHS))


def test_bfloat16_is_honoured(tokenizer, tmp_path):
    write(tmp_path, CONFIGS["phi"], tokenizer)
    network, _ = load_model(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}


def test_missing_weights_are_refused_rather_than_made_up(tokenizer, tmp_path):
    write(tmp_path, CONFIGS["gpt2"], tokenizer)
    weights = load_file(tmp_path / "model.safetensors")
    weights["transformer.ln_g.weight"] = weights.pop("transformer.ln_f.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"missing: transformer\.ln_f\.weight"):
        load_model(tmp_path)


def test_pickled_weights_are_refused(tokenizer, tmp_path):
    model = write(tmp_path, CONFIGS["gpt2"], tokenizer)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights can run code"):
        load_model(tmp_path)


@pytest.mark.parametrize("family", ["nonesuch", "t5"])
def test_what_is_no_causal_language_model_is_refused_before_any_weight_is_read(family, tokenizer, tmp_path):
    write(tmp_path, CONFIGS["gpt2"], tokenizer)
    check_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": family}))
    with pytest.raises(InputError, match=rf"transformers cannot load this model .*{family}"):
        check_model(tmp_path)


def test_a_configuration_alone_gives_the_shape_of_the_model(tokenizer, tmp_path):
    write(tmp_path, CONFIGS["gpt2"], tokenizer)
    (tmp_path / "model.safetensors").rename(tmp_path / "aside")
    shape = read_shape(tmp_path)
    (tmp_path / "aside").rename(tmp_path / "model.safetensors")
    assert shape == load_model(tmp_path)[0].shape


def test_a_refusal_says_everything_itself(tokenizer, tmp_path, capfd):
    write(tmp_path, CONFIGS["gpt2"], tokenizer)
    capfd.readouterr()
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.ln_f.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="of one and the same model"):
        load_model(tmp_path)
    assert capfd.readouterr().err == ""


def test_code_that_comes_with_the_weights_is_not_run(tokenizer, tmp_path):
    write(tmp_path, CONFIGS["gpt2"], tokenizer)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="transformers cannot load this model"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_model_whose_frequencies_depend_on_the_longest_text_reads_no_longer_ones(tokenizer, tmp_path):
    """Beyond its first length such a model takes other frequencies for all sequences of a batch."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [8.0] * 4, "rope_theta": 10000.0}
    config = Phi3Config(
        **SIZES | {"max_position_embeddings": 64}, rope_parameters=rope, original_max_position_embeddings=16
    )
    write(tmp_path, config, tokenizer)
    network, _ = load_model(tmp_path)
    assert network.shape.max_position_embeddings == read_shape(tmp_path).max_position_embeddings == 16
    said = torch.arange(3, 19)
    alone = network.packed(said, [16])
    beside = network.packed(torch.cat([said[:3], said]), [3, 16])
    torch.testing.assert_close(beside, torch.cat([alone[:3], alone]), rtol=1e-4, atol=1e-5)
    assert network.longest == 16
    with pytest.raises(InputError, match=r"longer than this model reads \(found 17 tokens\)\s+try: at most 16"):
        network.packed(torch.arange(20), [3, 17])


def test_damaged_weights_are_refused(tokenizer, tmp_path):
    write(tmp_path, CONFIGS["mistral"], tokenizer)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(InputError, match=r"model"):
        load_model(tmp_path)


def test_a_model_that_looks_ahead_is_refused(tokenizer, tmp_path):
    bert = BertConfig(**{k: v for k, v in SIZES.items() if not k.startswith("eos")}, is_decoder=False)
    write(tmp_path, bert, tokenizer)
    with pytest.raises(InputError, match="the model is not causal"):
        load_model(tmp_path)
