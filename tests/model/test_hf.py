"""Folders in and out: our logits are those of transformers, whichever side wrote the folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from thinkery.errors import EnvironmentLacks, InputError
from thinkery.model.hf import check_model, config_from_shape, load_model, save_model, shape_from_config
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LLAMA = Shape("llama", 259, 32, 48, 2, 4, 2, 8)
SHAPES = {
    "llama tied": LLAMA,
    "llama untied, no grouping": replace(LLAMA, tie_word_embeddings=False, num_key_value_heads=4),
    "llama with biases": replace(LLAMA, attention_bias=True, output_bias=True, mlp_bias=True),
    "llama with wide heads": replace(LLAMA, head_dim=12, rope_theta=500000.0, rms_norm_eps=1e-5),
    "llama with linear rope": replace(LLAMA, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama with llama3 rope": replace(LLAMA, rope_scaling=LLAMA3),
    "qwen2 tied": replace(LLAMA, family="qwen2", attention_bias=True),
    "qwen2 untied": replace(LLAMA, family="qwen2", attention_bias=True, tie_word_embeddings=False),
    "qwen3 tied": replace(LLAMA, family="qwen3", qk_norm=True, head_dim=16),
    "qwen3 untied with biases": replace(
        LLAMA, family="qwen3", qk_norm=True, attention_bias=True, output_bias=True, tie_word_embeddings=False
    ),
}
LENGTHS = [9, 5, 20]


def tokens() -> torch.Tensor:
    return torch.randint(0, 259, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def our_logits(network) -> torch.Tensor:
    return network.logits(network.packed(tokens(), LENGTHS))


@torch.no_grad()
def their_logits(model) -> torch.Tensor:
    return torch.cat([model(part[None]).logits[0] for part in tokens().split(LENGTHS)])


def randomise(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)


def write_theirs(folder, tokenizer, shape: Shape, **save) -> AutoModelForCausalLM:
    """A folder as transformers itself writes it, with our tokenizer beside."""
    kwargs = config_from_shape(shape, tokenizer)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kwargs.pop("model_type"), **kwargs))
    randomise(model)
    model.save_pretrained(folder, **save)
    tokenizer.save(folder)
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_computes_our_logits_from_what_we_write(name, tokenizer, build, tmp_path):
    network = build(SHAPES[name])
    save_model(tmp_path, network, tokenizer)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(their_logits(theirs), our_logits(network), rtol=1e-4, atol=1e-4)
    assert theirs.generation_config.eos_token_id in (2, [2])


@pytest.mark.parametrize("name", SHAPES)
def test_we_compute_the_logits_of_what_transformers_writes(name, tokenizer, tmp_path):
    theirs = write_theirs(tmp_path, tokenizer, SHAPES[name])
    network, _ = load_model(tmp_path)
    assert isinstance(network, Transformer)
    assert network.shape == SHAPES[name]
    torch.testing.assert_close(our_logits(network), their_logits(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_what_we_write_we_load_bit_for_bit(name, tokenizer, build, tmp_path):
    network = build(SHAPES[name])
    save_model(tmp_path, network, tokenizer)
    loaded, its_tokenizer = load_model(tmp_path)
    assert loaded.shape == network.shape
    assert torch.equal(our_logits(loaded), our_logits(network))
    assert its_tokenizer.template == tokenizer.template


def test_a_network_is_loaded_onto_the_device_that_is_asked_for(tokenizer, build, tmp_path):
    save_model(tmp_path, build(LLAMA), tokenizer)
    there, _ = load_model(tmp_path, device=torch.device("meta"))
    here, _ = load_model(tmp_path)
    assert {p.device.type for p in there.parameters()} == {"meta"}
    assert {p.device.type for p in here.parameters()} == {"cpu"}


def test_sharded_folders_load_from_either_side(tokenizer, build, tmp_path):
    theirs = write_theirs(tmp_path / "theirs", tokenizer, LLAMA, max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    torch.testing.assert_close(
        our_logits(load_model(tmp_path / "theirs")[0]), their_logits(theirs), rtol=1e-4, atol=1e-4
    )

    network = build(LLAMA)
    save_model(tmp_path / "ours", network, tokenizer, shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    assert torch.equal(our_logits(load_model(tmp_path / "ours")[0]), our_logits(network))
    torch.testing.assert_close(
        their_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "ours")), our_logits(network), rtol=1e-4, atol=1e-4
    )


def test_what_is_written_is_made_in_order_and_a_file_at_a_time(tokenizer, build, tmp_path):
    network, made = build(LLAMA), []

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        made.append((tensor, len(list(tmp_path.glob("model-*.safetensors")))))
        return tensor.detach().clone()

    save_model(tmp_path, network, tokenizer, shard_bytes=20_000, whole=whole)
    assert all(a is b for (a, _), b in zip(made, network.parameters(), strict=True))
    there = [files for _, files in made]
    assert (there, there[0]) == (sorted(there), 0)
    assert there[-1] == len(list(tmp_path.glob("model-*.safetensors"))) - 1 > 0
    assert torch.equal(our_logits(load_model(tmp_path)[0]), our_logits(network))


def test_bfloat16_loads_and_saves_with_exact_angles(tokenizer, build, tmp_path):
    network = build(LLAMA)
    save_model(tmp_path / "full", network, tokenizer)
    half, _ = load_model(tmp_path / "full", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert isinstance(half, Transformer)
    assert torch.equal(half.frequencies, network.frequencies)
    save_model(tmp_path / "half", half, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert theirs.dtype == torch.bfloat16
    torch.testing.assert_close(their_logits(theirs).float(), our_logits(half).float(), rtol=0.1, atol=0.3)


def test_casting_keeps_the_angles_and_the_tie(build):
    network = build(LLAMA).to(torch.bfloat16)
    assert network.frequencies.dtype == torch.float32
    assert network.lm_head.weight is network.model["embed_tokens"].weight


def test_a_tied_checkpoint_may_hold_a_copy_of_its_head(tokenizer, build, tmp_path):
    network = build(LLAMA)
    save_model(tmp_path, network, tokenizer)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    assert torch.equal(our_logits(load_model(tmp_path)[0]), our_logits(network))


def test_a_tied_checkpoint_with_another_head_is_refused(folder):
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(folder, **{"lm_head.weight": embeddings + 1})
    with pytest.raises(InputError, match="head and embeddings are one, and the weights hold two"):
        load_model(folder)


def test_the_card_heads_the_folder(tokenizer, build, tmp_path):
    save_model(tmp_path, build(LLAMA), tokenizer, card="# Zero\n\nMade by a test.\n")
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert card.endswith("# Zero\n\nMade by a test.\n")


@pytest.fixture
def folder(tokenizer, build, tmp_path):
    save_model(tmp_path, build(LLAMA), tokenizer)
    return tmp_path


def edit_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_weights(folder, **changes: torch.Tensor | None) -> None:
    weights = {**load_file(folder / "model.safetensors"), **changes}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors")


def test_missing_and_extra_tensors_are_named(folder):
    edit_weights(folder, **{"model.norm.weight": None, "model.nrom.weight": torch.zeros(32)})
    with pytest.raises(InputError, match=r"missing: model\.norm\.weight; extra: model\.nrom\.weight"):
        load_model(folder)


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    edit_weights(folder, **{"model.norm.weight": torch.zeros(31)})
    with pytest.raises(InputError, match=r"model\.norm\.weight \(31,\) instead of \(32,\)"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm.weight": None}, r"missing: model\.norm\.weight"),
        ({"model.extra": torch.zeros(2)}, r"extra: model\.extra"),
        ({"model.norm.weight": torch.zeros(31)}, r"\(31,\) instead of \(32,\)"),
    ],
)
def test_a_look_at_the_headers_finds_wrong_weights(folder, changes, message):
    check_model(folder)
    edit_weights(folder, **changes)
    with pytest.raises(InputError, match=message):
        check_model(folder)


def test_a_look_at_the_headers_finds_a_model_that_cannot_end_a_text(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    with pytest.raises(InputError, match="no end-of-sequence token"):
        check_model(folder)


def test_a_look_at_the_headers_finds_an_unsupported_variant(folder):
    edit_config(folder, hidden_act="gelu")
    with pytest.raises(InputError, match="hidden_act 'gelu'"):
        check_model(folder)


def test_a_configuration_that_lacks_a_size_is_refused_by_name(folder):
    edit_config(folder, hidden_size=None)
    for look in (check_model, load_model):
        with pytest.raises(InputError, match=r"config\.json: .*lacks what a llama model has \(found no hidden_size\)"):
            look(folder)


def test_weights_that_exceed_the_memory_are_refused_before_any_is_read(folder):
    config = {"vocab_size": 10**12, "tie_word_embeddings": True}
    edit_config(folder, **config)
    shapes = {name: list(weight.shape) for name, weight in load_file(folder / "model.safetensors").items()}
    shapes["model.embed_tokens.weight"] = [10**12, 32]
    shapes.pop("lm_head.weight", None)
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    for look in (check_model, load_model):
        with pytest.raises(
            EnvironmentLacks, match=r"too little memory to load this model \(found its weights need 128 TB"
        ):
            look(folder)


def test_a_missing_shard_is_named(tokenizer, build, tmp_path):
    save_model(tmp_path, build(LLAMA), tokenizer, shard_bytes=20_000)
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(InputError, match=f"no {lost.name}"):
        load_model(tmp_path)


def test_a_damaged_weight_file_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="weights cannot be read"):
        load_model(folder)


def test_pickled_weights_are_refused_with_the_reason(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="pickled weights can run code"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling is not supported .*yarn"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope scaling is not supported .*dynamic"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "incomplete .*no low_freq_factor"),
        ({"use_sliding_window": True}, "sliding-window attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window attention"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised weights"),
        ({"model_type": "nonesuch"}, "transformers cannot load this model"),
    ],
)
def test_what_we_do_not_compute_is_refused(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder, tokenizer, build):
    shutil.rmtree(folder)
    save_model(folder, build(replace(LLAMA, vocab_size=258)), tokenizer)
    for look in (load_model, check_model):
        with pytest.raises(InputError, match="259 tokens, 258 rows"):
            look(folder)


def test_special_tokens_that_have_no_row_are_left_out(folder):
    """Gemma 3's tokenizer has a token for images, of which its text-only models have no row."""
    tokenizer = Tokenizer.load(folder)
    tokenizer.backend.add_special_tokens(["<image>"])
    tokenizer.save(folder)
    check_model(folder)
    _, cut = load_model(folder)
    assert (tokenizer.vocab_size, cut.vocab_size) == (260, 259)
    assert tokenizer.encode("<image>") == [259]
    assert max(cut.encode("a<image>")) < 259
    assert cut.decode(cut.encode("a<image>")) == "a<image>"
    assert cut.eos_ids == tokenizer.eos_ids


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)


def test_a_shape_its_family_cannot_describe_is_not_written(tokenizer):
    with pytest.raises(ValueError, match="no qwen3 config"):
        config_from_shape(replace(LLAMA, family="qwen3", qk_norm=False), tokenizer)


@pytest.mark.parametrize("name", SHAPES)
def test_a_config_gives_back_its_shape(name, tokenizer):
    assert shape_from_config(config_from_shape(SHAPES[name], tokenizer)) == SHAPES[name]
