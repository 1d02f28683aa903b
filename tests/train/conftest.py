"""A tiny model, its tokenizer and a run, real ones, for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from thinkery.chat import THINK_CHAT
from thinkery.model.hf import save_model
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer
from thinkery.pipeline.run import Run
from thinkery.train.policy import Policy, PolicyConfig

torch.set_num_threads(1)


def tiny_tokenizer() -> Tokenizer:
    """Bytes, one end-of-sequence token, and turns for a model that thinks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    return Tokenizer(backend, eos="<|end|>", template=THINK_CHAT)


def tiny_network(seed: int = 0, vocab_size: int = 257) -> Transformer:
    """Two layers with random weights."""
    shape = Shape("qwen2", vocab_size, 32, 64, 2, 4, 2, 8, max_position_embeddings=256, attention_bias=True)
    network = Transformer(shape)
    network.initialise(torch.Generator().manual_seed(seed), std=0.2)
    return network


def tiny_policy(seed: int = 0, **settings) -> Policy:
    """A tiny policy."""
    return Policy(tiny_network(seed), tiny_tokenizer(), PolicyConfig(**settings))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", "test", seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder of the tiny model."""
    save_model(tmp_path / "model", tiny_network(), tiny_tokenizer())
    return tmp_path / "model"


@pytest.fixture
def make_policy() -> Callable[..., Policy]:
    """`make_policy(seed=0, **settings of PolicyConfig)`."""
    return tiny_policy
