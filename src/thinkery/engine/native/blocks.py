"""Beginnings of prompts that were computed before, in blocks of 64 tokens.

A block's name is a hash of everything before it, itself and the owner's salt, so that equal names mean equal keys
and values. What was used longest ago goes first.

Shapes: X = 2 (keys, values), I layers, T tokens, K key/value heads, E head width.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice, takewhile

from torch import Tensor

BLOCK = 64


class Blocks:
    """Keys and values of up to `tokens` tokens, kept from one request to the next while the weights stay the same."""

    def __init__(self) -> None:
        self.kept: OrderedDict[bytes, Tensor] = OrderedDict()

    @property
    def tokens(self) -> int:
        """How many tokens are kept."""
        return len(self.kept) * BLOCK

    def known(self, text: Sequence[int], salt: str) -> int:
        """Tokens of the longest known beginning that leaves at least one token to compute."""
        return BLOCK * len(self.names(text, salt))

    def names(self, text: Sequence[int], salt: str) -> list[bytes]:
        """The blocks of that beginning."""
        return list(takewhile(self.kept.__contains__, block_names(text[:-1], salt)))

    def find(self, text: Sequence[int], salt: str) -> list[Tensor]:
        """kv_XITKE of every block of the longest known beginning that leaves at least one token to compute."""
        names = self.names(text, salt)
        for name in reversed(names):  # a beginning must not go before what follows it
            self.kept.move_to_end(name)
        return [self.kept[name] for name in names]

    def keep(self, text: Sequence[int], salt: str, kv_XITKE: Tensor, first: int = 0) -> None:
        """Remember every whole block of a text from block `first` on, where its keys and values begin."""
        for number, name in enumerate(islice(block_names(text, salt), first, None)):
            if name not in self.kept:
                self.kept[name] = kv_XITKE[:, :, number * BLOCK : (number + 1) * BLOCK].clone()

    def shrink(self, tokens: int) -> None:
        """Forget blocks until at most so many tokens are left."""
        while self.tokens > max(0, tokens):
            self.kept.popitem(last=False)


def block_names(text: Sequence[int], salt: str) -> Iterator[bytes]:
    """A name for every whole block, each depending on all before it."""
    name = blake2b(salt.encode(), digest_size=16).digest()
    for end in range(BLOCK, len(text) + 1, BLOCK):
        name = blake2b(name + array("q", text[end - BLOCK : end]).tobytes(), digest_size=16).digest()
        yield name
