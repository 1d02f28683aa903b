"""Sampling in shapes that never change, so that no bit of a sample depends on its neighbours.

Shapes: B rows, T tokens of one padded text, D width, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from thinkery.engine.native.attention import over_cache
from thinkery.engine.native.cache import Cache
from thinkery.engine.native.runner import Prefix, fill, recorded
from thinkery.engine.native.scheduler import Moves, Room
from thinkery.engine.native.sequence import Sample
from thinkery.model.attention import packed_causal
from thinkery.model.transformer import Transformer


class FixedRunner:
    """Every decoding step has `max_rows` rows over `max_length` positions, every prompt goes through alone, padded.

    That a row's place in the batch does not matter either is up to the processor's matrix kernels; `rows_agree`
    tries it out.
    """

    cache_tokens = sys.maxsize  # the cache has room for every row at its longest

    def __init__(self, network: Transformer, max_rows: int, max_length: int) -> None:
        self.network, self.max_rows, self.max_length = network, max_rows, max_length
        weight = network.lm_head.weight
        self.device = weight.device
        self.cache = Cache(network.shape, weight.dtype, weight.device)
        self.cache.resize(max_rows, max_length)

    def make_room(self, room: Room) -> None:
        """All the room there is was made at the start."""

    def fresh(self, text: Sequence[int], salt: str) -> int:
        """How many tokens of a text are not known yet: all."""
        return len(text)

    def prefixes(self, texts: Sequence[Sequence[int]], salts: Sequence[str]) -> list[Prefix]:
        """One text per pass, with padding behind it, which causal attention cannot see."""
        return [self.padded_pass(text) for text in texts]

    def padded_pass(self, text: Sequence[int]) -> Prefix:
        """The work on one text."""
        n, length = len(text), self.max_length
        hidden_TD, kv_XITKE = recorded(
            self.network, [*text, *[0] * (length - n)], range(length), packed_causal([length], self.device)
        )
        return Prefix(hidden_TD[n - 1], kv_XITKE[:, :, :n])

    def place(self, prefixes: Sequence[Prefix], rows: Sequence[Sample], first: int) -> None:
        """Write the whole text into the row's slot."""
        fill(self.cache, [(slot, prefix.kv_XITKE) for slot, prefix in enumerate(prefixes, first)])

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """Feed every row its last token, and idle rows token 0."""
        idle = self.max_rows - len(rows)
        tokens = [row.tokens[-1] for row in rows] + [0] * idle
        lengths = [row.length for row in rows] + [1] * idle
        return self.advance(tokens, lengths)[: len(rows)]

    def advance(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """hidden_BD of all rows, which are `lengths` long with this token."""
        tokens_B = torch.tensor(tokens, device=self.device)
        positions_B = torch.tensor(lengths, device=self.device) - 1
        return self.network(tokens_B, positions_B, over_cache(self.cache, positions_B))

    def remember(self, slot: int, row: Sample) -> None:
        """Nothing is kept from one request to the next."""

    def padded(self, rows: int) -> int:
        """Always as many rows."""
        return self.max_rows

    def move(self, rows: Moves, shares: Moves) -> None:
        """Copy whole slots."""
        self.cache.move(*rows)

    def forget(self) -> None:
        """Nothing is kept from one request to the next."""

    def clear(self) -> None:
        """The room is the same at all times."""

    def rows_agree(self) -> bool:
        """Whether equal rows come out equal to the last bit wherever they stand in the batch."""
        prefix = self.padded_pass([0, 0, 0])
        fill(self.cache, [(slot, prefix.kv_XITKE) for slot in range(self.max_rows)])
        hidden_BD = self.advance([0] * self.max_rows, [4] * self.max_rows)
        logits_BV = self.network.logits(hidden_BD)
        return bool((hidden_BD == hidden_BD[0]).all() and (logits_BV == logits_BV[0]).all())
