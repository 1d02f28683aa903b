"""Sampling from a network that has no cache of ours: every step recomputes every text from its start.

Slow, quadratic in the length: for models of other architectures, and as a reference for the cached runner.

Shapes: B rows, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from thinkery.engine.native.runner import PREFILL_TOKENS, Network, Reading, chunks
from thinkery.engine.native.scheduler import Moves, Room
from thinkery.engine.native.sequence import Sample


class RecomputingRunner:
    """Remembers nothing; with `alone`, no text shares a pass, so that its bits do not depend on the others."""

    def __init__(self, network: Network, max_rows: int, *, alone: bool = False) -> None:
        self.network, self.max_rows, self.alone = network, max_rows, alone
        self.cache_tokens = sys.maxsize

    def make_room(self, room: Room, unplaced: int) -> None:
        """Nothing is kept, so no room is needed."""

    def open(self, text: Sequence[int], salt: str) -> Reading:
        """Nothing is known of any text."""
        return Reading(text, salt)

    def will_know(self, reading: Reading, readings: Sequence[Reading]) -> bool:
        """Nothing ever is."""
        return False

    def portion(self, reading: Reading, tokens: int) -> int:
        """All, because parts would have to be computed again with what follows them."""
        return reading.missing if tokens > 0 else 0

    def read(self, readings: Sequence[Reading]) -> None:
        """Compute whole texts."""
        hidden_BD = self.hidden([reading.text for reading in readings])
        for reading, hidden_D in zip(readings, hidden_BD, strict=True):
            reading.hidden_D, reading.done = hidden_D, reading.end

    def hidden(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """hidden_D at the end of every text; those of similar length share a pass through the network."""
        found: dict[int, Tensor] = {}
        for numbers in chunks([len(text) for text in texts], 0 if self.alone else PREFILL_TOKENS):
            found.update(zip(numbers, self.pass_of([texts[i] for i in numbers]), strict=True))
        return [found[i] for i in range(len(texts))]

    def pass_of(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """One packed pass, of which the last hidden states are kept."""
        lengths = [len(text) for text in texts]
        device = next(self.network.parameters()).device
        tokens_T = torch.tensor([token for text in texts for token in text], device=device)
        return self.network.packed(tokens_T, lengths)[torch.tensor(lengths, device=device).cumsum(0) - 1]

    def place(self, readings: Sequence[Reading], rows: Sequence[Sample], first: int) -> None:
        """Nothing is remembered."""

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """Every text again, whole."""
        return torch.stack(self.hidden([row.text for row in rows]))

    def remember(self, slot: int, row: Sample) -> None:
        """Nothing is remembered."""

    def padded(self, rows: int) -> int:
        """The head sees a fixed number of rows when texts are to be independent."""
        return self.max_rows if self.alone else rows

    def move(self, rows: Moves, shares: Moves) -> None:
        """Nothing is remembered."""

    def forget(self) -> None:
        """Nothing is remembered."""

    def clear(self) -> None:
        """Nothing is remembered."""
