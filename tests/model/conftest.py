"""Small parts that the model tests build on: a byte-level tokenizer and networks with random weights."""

from __future__ import annotations

import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from thinkery.chat import THINK_CHAT
from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_tokenizer() -> Tokenizer:
    """One token per byte (ids 3 to 258) after three special ones; speaks ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return Tokenizer(backend, eos="<|im_end|>", bos="<|im_start|>", template=THINK_CHAT)


def random_network(shape: Shape, seed: int = 0) -> Transformer:
    """A network of a shape with every weight random, norms and biases too."""
    network = Transformer(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return network


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def build():
    """`random_network`, as a fixture."""
    return random_network


@pytest.fixture
def shape() -> Shape:
    """Two layers of Llama, two query heads per key head."""
    return Shape("llama", 259, 32, 48, 2, 4, 2, 8)
