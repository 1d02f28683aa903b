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
from thinkery.engine.native.runner import Reading, buffer, fill
from thinkery.engine.native.scheduler import Moves, Room
from thinkery.engine.native.sequence import Sample
from thinkery.model.attention import Attend, attention
from thinkery.model.transformer import Transformer

PART = 512
"""Tokens of a text that go through the network at once."""


class FixedRunner:
    """Every decoding step has `max_rows` rows over `max_length` positions; a prompt goes through alone, in parts of one
    length over `max_length` positions too.

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
        self.part = min(PART, max_length)
        self.parts = -(-max_length // self.part)

    def make_room(self, room: Room, unplaced: int) -> None:
        """All the room there is was made at the start."""

    def open(self, text: Sequence[int], salt: str) -> Reading:
        """Nothing is known of any text."""
        return Reading(text, salt)

    def will_know(self, reading: Reading, readings: Sequence[Reading]) -> bool:
        """Nothing ever is."""
        return False

    def portion(self, reading: Reading, tokens: int) -> int:
        """Whole parts, so that where a text is cut does not depend on what is beside it; at least one."""
        return min(reading.missing, max(self.part, tokens // self.part * self.part)) if tokens > 0 else 0

    def read(self, readings: Sequence[Reading]) -> None:
        """One part of one text per pass, with padding behind it, which causal attention cannot see."""
        for reading in readings:
            if not reading.kv_XITKE.numel():
                reading.kv_XITKE = buffer(self.network, self.parts * self.part).zero_()
            while reading.done < reading.end:
                self.pass_part(reading)

    def pass_part(self, reading: Reading) -> None:
        """The next part of a text."""
        start = reading.done
        tokens = reading.text[start : start + self.part]
        idle = self.part - len(tokens)
        seen_TL = torch.ones(self.part, self.parts * self.part, dtype=torch.bool, device=self.device).tril(start)
        tokens_T = torch.tensor([*tokens, *[0] * idle], device=self.device)
        places_T = torch.arange(start, start + self.part, device=self.device)
        hidden_TD = self.network(tokens_T, places_T, over_part(reading.kv_XITKE, start, seen_TL))
        reading.hidden_D, reading.done = hidden_TD[len(tokens) - 1], start + len(tokens)

    def place(self, readings: Sequence[Reading], rows: Sequence[Sample], first: int) -> None:
        """Write the whole text into the row's slot."""
        texts = [reading.kv_XITKE[:, :, : len(reading.text)] for reading in readings]
        fill(self.cache, list(enumerate(texts, first)))

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
        reading = Reading([0, 0, 0], "", end=3)
        self.read([reading])
        fill(self.cache, [(slot, reading.kv_XITKE[:, :, :3]) for slot in range(self.max_rows)])
        hidden_BD = self.advance([0] * self.max_rows, [4] * self.max_rows)
        logits_BV = self.network.logits(hidden_BD)
        return bool((hidden_BD == hidden_BD[0]).all() and (logits_BV == logits_BV[0]).all())


def over_part(kv_XITKE: Tensor, start: int, seen_TL: Tensor) -> Attend:
    """Attention of part of a text, which begins at `start`, to all there is room for."""

    def attend(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
        keys_LKE, values_LKE = kv_XITKE[:, layer]
        here = slice(start, start + len(q_THE))
        keys_LKE[here], values_LKE[here] = k_TKE, v_TKE
        q, k, v = (x.transpose(0, 1)[None] for x in (q_THE, keys_LKE, values_LKE))
        return attention(q, k, v, seen_TL[None, None])[0].transpose(0, 1)

    return attend
