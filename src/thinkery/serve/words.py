"""Tokens as words: the text of each alone, and the bytes it stands for, also where it is a part of a character."""

from __future__ import annotations

import re

from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.jobs import Word

FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
"""A single byte, as vocabularies of SentencePiece write it."""


def letters_of_bytes() -> dict[str, int]:
    """The letters in which byte-level vocabularies write bytes: themselves where they are printable, else from Ā on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTES = letters_of_bytes()


def word(tokenizer: Tokenizer, token: int) -> Word:
    """One token alone, special ones included."""
    text = tokenizer.backend.decode([token], skip_special_tokens=False)
    return Word(text, spelling_of(tokenizer.backend.id_to_token(token) or "", text))


def spelling_of(piece: str, text: str) -> bytes | None:
    """The bytes of a token, of its text where that is whole, else of its piece in the vocabulary; None for a piece of
    another form."""
    if "\ufffd" not in text:
        return text.encode()
    if found := FALLBACK.fullmatch(piece):
        return bytes([int(found[1], 16)])
    if not BYTES.keys() >= set(piece):
        return None
    written = bytes(BYTES[letter] for letter in piece)
    return written if written.decode(errors="replace") == text else None
