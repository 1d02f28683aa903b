"""A two-layer network and a byte-level tokenizer small enough to work results out by hand."""

import pytest
from tests.engine.asking import drawn
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from thinkery.model.tokenizer import Tokenizer
from thinkery.model.transformer import Shape, Transformer

WORDS = ["<eos>", "stop", "st", "op", " here", "</", "answer", ">"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """All bytes, then a few words; "<eos>" ends a completion."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = byte_level
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(WORDS[:1])
    backend.add_tokens(WORDS[1:])
    return Tokenizer(backend, eos="<eos>", template="{{ messages[-1].content }}:")


@pytest.fixture(scope="session")
def shape() -> Shape:
    return Shape("llama", 272, 32, 64, 2, 4, 2, 8, max_position_embeddings=128)


@pytest.fixture
def network(shape: Shape) -> Transformer:
    """Weights wide enough apart that the next token is neither certain nor uniform."""
    return drawn(shape)
