"""export: a folder in another format, a .gguf file, and what is refused without leaving anything behind."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from thinkery.model.hf import load_model, save_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer


def speaker(folder: Path) -> Path:
    """A random Llama that cuts text as GPT-2 does."""
    backend = Backend(models.BPE({token: id for id, token in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    network = Transformer(Shape("llama", 260, 32, 64, 2, 4, 2, 8))
    network.initialise(torch.Generator().manual_seed(1))
    card = "---\nbase_model: Some/Base-7B\nlicense: mit\n---\n\n# A model with a past\n\nIt came from `zero`.\n"
    save_model(folder, network, Tokenizer(backend, eos="<eos>", template="{{ messages[-1].content }}:"), card=card)
    return folder


def test_a_folder_holds_the_same_model_in_the_format_asked_for_with_its_card(thinkery, tmp_path: Path) -> None:
    source = speaker(tmp_path / "model")
    code, out, _ = thinkery("export", source, tmp_path / "out", "--type", "f16", "--template", "r1-zero")
    assert (code, out.split(",")[0]) == (0, f"wrote {tmp_path / 'out'}: f16")
    weights, original = load_file(tmp_path / "out" / "model.safetensors"), load_file(source / "model.safetensors")
    assert weights.keys() == original.keys()
    assert all(torch.equal(weight, original[name].half()) for name, weight in weights.items())
    card = (tmp_path / "out" / "README.md").read_text()
    assert card == (source / "README.md").read_text()
    assert card.startswith("---\nbase_model: Some/Base-7B\nlicense: mit\n---\n")
    assert "<think>" in (load_model(tmp_path / "out")[1].template or "")


def test_a_gguf_file_is_a_model_that_every_command_takes(thinkery, tmp_path: Path) -> None:
    source = speaker(tmp_path / "model")
    assert thinkery("export", source, tmp_path / "x.gguf", "--type", "f32")[0] == 0
    words = ("hello", "--max-tokens", 6, "--temperature", 0)
    assert thinkery("generate", tmp_path / "x.gguf", *words) == thinkery("generate", source, *words)


def test_what_cannot_be_exported_leaves_nothing_behind(thinkery, tiny_qwen: Path, tmp_path: Path) -> None:
    code, _, err = thinkery("export", tiny_qwen, tmp_path / "x.gguf")
    assert code == 4
    assert "llama.cpp does not know how this tokenizer cuts text" in err
    code, _, err = thinkery("export", tiny_qwen, tmp_path / "x", "--type", "q8_0")
    assert code == 2
    assert "a folder holds f32, f16, bf16" in err
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept.gguf").write_text("mine")
    code, _, err = thinkery("export", tiny_qwen, tmp_path / "kept.gguf")
    assert code == 4
    assert "there is something already" in err
    assert (tmp_path / "kept.gguf").read_text() == "mine"
