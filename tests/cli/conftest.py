"""A command line as a user gives it, and a tiny random model with a chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from thinkery import chat
from thinkery.cli.main import main
from thinkery.model.hf import save_model
from thinkery.model.tokenizer import Tokenizer as OurTokenizer
from thinkery.model.transformer import Shape, Transformer


@pytest.fixture
def thinkery(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command line in this process; returns (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of two layers whose vocabulary of single characters has an odd size."""
    letters = [chr(c) for c in range(32, 127)] + ["\n"]
    return random_qwen(tmp_path_factory.mktemp("models") / "qwen", letters)


@pytest.fixture(scope="session")
def rude_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, but most of what it can say are control characters and parts of terminal escapes."""
    letters = [chr(c) for c in (*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066)] + [*"[]2J?;hlm0user: assistant"]
    return random_qwen(tmp_path_factory.mktemp("models") / "rude", list(dict.fromkeys(letters)))


@pytest.fixture(scope="session")
def endless_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that finds an end less likely than anything else, and has room for more than it can say in a minute."""
    letters = [chr(c) for c in range(32, 127)] + ["\n"]
    return random_qwen(tmp_path_factory.mktemp("models") / "endless", letters, positions=2**16, ends=False)


def random_qwen(folder: Path, letters: list[str], *, positions: int = 1024, ends: bool = True) -> Path:
    """A random Qwen3 that speaks in these letters."""
    special = ["<|end|>", "<odd>"]
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<odd>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(special)
    shape = Shape(
        family="qwen3",
        vocab_size=len(vocabulary) + 3,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        qk_norm=True,
    )
    network = Transformer(shape)
    network.initialise(torch.Generator().manual_seed(0))
    if not ends:
        with torch.no_grad():
            network.lm_head.weight[vocabulary["<|end|>"]] = 0  # the largest of a hundred random logits is above 0
    save_model(folder, network, OurTokenizer(backend, eos="<|end|>", template=chat.THINK_CHAT))
    return folder
