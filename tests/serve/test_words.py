"""The bytes of tokens, whichever way a vocabulary writes them."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models

from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.jobs import Word
from thinkery.serve.words import spelling_of, word

BYTE_LEVEL = Tokenizer.load(locate("tiny"))


def byte_fallback() -> Tokenizer:
    """A vocabulary of two words and all bytes, as SentencePiece writes them."""
    vocabulary = {"▁hi": 0, "�": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return Tokenizer(backend)


@pytest.mark.parametrize("text", ["hello, you", "🙂", "思考 🙂é\n", "\x00\x7f\u00ad", "a � b", "<think>x</think>"])
def test_a_text_is_the_bytes_of_its_tokens(text):
    words = [word(BYTE_LEVEL, token) for token in BYTE_LEVEL.encode(text)]
    assert b"".join(one.spelling or b"?" for one in words) == text.encode()


def test_an_emoji_is_split_over_tokens_that_are_no_characters():
    fallback = byte_fallback()
    for tokenizer, tokens in ((BYTE_LEVEL, BYTE_LEVEL.encode("🙂")), (fallback, [byte + 2 for byte in "🙂".encode()])):
        words = [word(tokenizer, token) for token in tokens]
        assert words == [Word("\ufffd", bytes([byte])) for byte in "🙂".encode()]
    assert word(fallback, 0) == Word(" hi", b" hi")


def test_bytes_that_cannot_be_known_are_not_made_up():
    assert spelling_of("�", "�") is None
    assert spelling_of("x\ufffd", "\ufffd") is None
    assert spelling_of("ab", "a\ufffd") is None
