"""Sampling from a network that has no cache of ours: every step recomputes every text from its start.

Slow, quadratic in the length: for models of other architectures, and as a reference for the cached runner.

Shapes: B rows, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from thinkery.engine.native.runner import PREFILL_TOKENS, Network, Prefix, chunks
from thinkery.engine.native.scheduler import Moves, Room
from thinkery.engine.native.sequence import Sample


class RecomputingRunner:
    """Remembers nothing; with `alone`, no text shares a pass, so that its bits do not depend on the others."""

    def __init__(self, network: Network, max_rows: int, *, alone: bool = False) -> None:
        self.network, self.max_rows, self.alone = network, max_rows, alone
        self.cache_tokens = sys.maxsize

    def make_room(self, room: Room) -> None:
        """Nothing is kept, so no room is needed."""

    def fresh(self, text: Sequence[int], salt: str) -> int:
        """How many tokens of a text are not known yet: all."""
        return len(text)

    def prefixes(self, texts: Sequence[Sequence[int]], salts: Sequence[str]) -> list[Prefix]:
        """Texts of similar length share a pass through the network."""
        found: dict[int, Prefix] = {}
        for numbers in chunks([len(text) for text in texts], 0 if self.alone else PREFILL_TOKENS):
            found.update(zip(numbers, self.pass_of([texts[i] for i in numbers]), strict=True))
        return [found[i] for i in range(len(texts))]

    def pass_of(self, texts: Sequence[Sequence[int]]) -> list[Prefix]:
        """One packed pass, of which the last hidden states are kept."""
        lengths = [len(text) for text in texts]
        device = next(self.network.parameters()).device
        tokens_T = torch.tensor([token for text in texts for token in text], device=device)
        hidden_TD = self.network.packed(tokens_T, lengths)
        return [Prefix(hidden_TD[end - 1]) for end in torch.tensor(lengths).cumsum(0).tolist()]

    def place(self, prefixes: Sequence[Prefix], rows: Sequence[Sample], first: int) -> None:
        """Nothing is remembered."""

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """Every text again, whole."""
        texts, salts = [row.text for row in rows], [row.prompt.request.salt for row in rows]
        return torch.stack([prefix.hidden_D for prefix in self.prefixes(texts, salts)])

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
