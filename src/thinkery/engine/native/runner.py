"""The network over the cache: prompts many at once, then one token of every running sample.

Shapes: B rows, L tokens in the longest row, T tokens of packed prompts, D width, H query heads, K key/value
heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from thinkery.engine.native.cache import Cache
from thinkery.engine.native.sequence import Sample
from thinkery.model.attention import Attend, packed_causal, positions
from thinkery.model.transformer import Shape, Transformer

PREFILL_TOKENS = 8192
"""Prompt tokens that go through the network at once; bounds the memory of activations."""


class Network(Protocol):
    """What sampling needs of a language model: our Transformer and `model.adapter.Adapted` have it."""

    shape: Shape

    def packed(self, tokens_T: Tensor, lengths: Sequence[int]) -> Tensor: ...

    def logits(self, hidden_TD: Tensor) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class Runner(Protocol):
    """Computes hidden states for the rows of a batch; what it remembers of row i it keeps in slot i."""

    cache_tokens: int
    """How many tokens of everything in flight there is memory for."""

    def make_room(self, rows: int, length: int, longest: int) -> None:
        """Hold `rows` samples of `length` tokens, of which the longest may come to hold `longest`."""
        ...

    def prefixes(self, texts: Sequence[Sequence[int]]) -> list[Prefix]:
        """The work on each text, to be placed into any number of slots."""
        ...

    def place(self, prefixes: Sequence[Prefix], slots: Sequence[int]) -> None:
        """Put prefix i into slot i."""
        ...

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """hidden_BD at the last token of every row."""
        ...

    def padded(self, rows: int) -> int:
        """How many rows to compute logits for, so that shapes are what this runner promises."""
        ...

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy what is remembered from slots to others."""
        ...


@dataclass(frozen=True, slots=True)
class Prefix:
    """A text's hidden state at its last token, and its keys and values in every layer."""

    hidden_D: Tensor
    keys: Sequence[Tensor] = ()
    """k_TKE of every layer."""
    values: Sequence[Tensor] = ()


class CachedRunner:
    """Runs a Transformer over a cache of at most `memory` bytes."""

    def __init__(self, network: Transformer, max_rows: int, memory: int) -> None:
        self.network, self.max_rows = network, max_rows
        weight = network.lm_head.weight
        self.device = weight.device
        self.cache = Cache(network.shape, weight.dtype, weight.device)
        self.cache_tokens = memory // token_bytes(network)

    def make_room(self, rows: int, length: int, longest: int) -> None:
        """Grow by doubling within the budget; `rows * longest` tokens are known to fit."""
        slots, capacity = self.cache.slots, self.cache.capacity
        if length > capacity or rows * capacity > self.cache_tokens:
            capacity = min(doubled(length), longest)
        if rows > slots or slots * capacity > self.cache_tokens:
            slots = min(doubled(rows), self.max_rows, self.cache_tokens // capacity)
        if (slots, capacity) != (self.cache.slots, self.cache.capacity):
            self.cache.resize(slots, capacity)

    def prefixes(self, texts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Texts of similar length share a pass through the network."""
        found: dict[int, Prefix] = {}
        for numbers in chunks([len(text) for text in texts], PREFILL_TOKENS):
            found.update(zip(numbers, self.pass_of([texts[i] for i in numbers]), strict=True))
        return [found[i] for i in range(len(texts))]

    def pass_of(self, texts: Sequence[Sequence[int]]) -> list[Prefix]:
        """One packed causal pass that keeps the keys and values."""
        lengths = [len(text) for text in texts]
        tokens_T = torch.tensor([token for text in texts for token in text], device=self.device)
        keys, values = [], []
        causal = packed_causal(lengths, self.device)

        def attend(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
            keys.append(k_TKE.split(lengths))
            values.append(v_TKE.split(lengths))
            return causal(layer, q_THE, k_TKE, v_TKE)

        hidden_TD = self.network(tokens_T, positions(lengths, self.device), attend)
        lasts = [hidden_TD[end - 1] for end in torch.tensor(lengths).cumsum(0).tolist()]
        return [Prefix(*parts) for parts in zip(lasts, zip(*keys, strict=True), zip(*values, strict=True), strict=True)]

    def place(self, prefixes: Sequence[Prefix], slots: Sequence[int]) -> None:
        """Write all prefixes with one copy per layer."""
        lengths = [prefix.keys[0].shape[0] for prefix in prefixes]
        slots_N = torch.tensor(slots, device=self.device).repeat_interleave(torch.tensor(lengths, device=self.device))
        index = self.cache.index(slots_N, positions(lengths, self.device))
        for layer in range(len(self.cache.keys)):
            k_NKE = torch.cat([prefix.keys[layer] for prefix in prefixes])
            v_NKE = torch.cat([prefix.values[layer] for prefix in prefixes])
            self.cache.write(layer, index, k_NKE, v_NKE)

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """Feed every row its last token."""
        tokens = [row.tokens[-1] for row in rows]
        lengths = [row.length for row in rows]
        return self.advance(tokens, lengths, max(lengths))

    def advance(self, tokens: Sequence[int], lengths: Sequence[int], longest: int) -> Tensor:
        """hidden_BD of rows that are `lengths` long with this token; attention spans `longest` positions."""
        tokens_B = torch.tensor(tokens, device=self.device)
        positions_B = torch.tensor(lengths, device=self.device) - 1
        return self.network(tokens_B, positions_B, over_cache(self.cache, positions_B, longest))

    def padded(self, rows: int) -> int:
        """No padding."""
        return rows

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy whole slots."""
        self.cache.move(sources, targets)


class FixedRunner(CachedRunner):
    """Runs in shapes that never change, so that no sample's bits depend on its neighbours; slower.

    Every decoding step has `max_rows` rows and attends over `max_length` positions; every prompt goes through
    alone, padded to `max_length`. That a row's place in the batch does not matter either is up to the processor's
    matrix kernels, and the engine tries it out before it starts.
    """

    def __init__(self, network: Transformer, max_rows: int, max_length: int) -> None:
        super().__init__(network, max_rows, max_rows * max_length * token_bytes(network))
        self.max_length = max_length
        self.cache.resize(max_rows, max_length)

    def make_room(self, rows: int, length: int, longest: int) -> None:
        """All the room there is was made at the start."""

    def prefixes(self, texts: Sequence[Sequence[int]]) -> list[Prefix]:
        """One text per pass."""
        return [self.padded_pass(text) for text in texts]

    def padded_pass(self, text: Sequence[int]) -> Prefix:
        """A text behind which padding stands, which causal attention cannot see."""
        n = len(text)
        tokens_T = torch.zeros(self.max_length, dtype=torch.int64, device=self.device)
        tokens_T[:n] = torch.tensor(text, device=self.device)
        keys, values = [], []
        causal = packed_causal([self.max_length], self.device)

        def attend(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
            keys.append(k_TKE[:n])
            values.append(v_TKE[:n])
            return causal(layer, q_THE, k_TKE, v_TKE)

        hidden_TD = self.network(tokens_T, positions([self.max_length], self.device), attend)
        return Prefix(hidden_TD[n - 1], keys, values)

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """Feed every row its last token, and idle rows token 0."""
        idle = self.max_rows - len(rows)
        tokens = [row.tokens[-1] for row in rows] + [0] * idle
        lengths = [row.length for row in rows] + [1] * idle
        return self.advance(tokens, lengths, self.max_length)[: len(rows)]

    def padded(self, rows: int) -> int:
        """Always as many rows."""
        return self.max_rows

    def rows_agree(self) -> bool:
        """Whether equal rows come out equal to the last bit wherever they stand in the batch."""
        prefix = self.padded_pass([0, 0, 0])
        self.place([prefix] * self.max_rows, range(self.max_rows))
        hidden_BD = self.advance([0] * self.max_rows, [4] * self.max_rows, self.max_length)
        logits_BV = self.network.logits(hidden_BD)
        return bool((hidden_BD == hidden_BD[0]).all() and (logits_BV == logits_BV[0]).all())


def token_bytes(network: Transformer) -> int:
    """Cache memory of one token of one sample."""
    shape = network.shape
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * network.lm_head.weight.itemsize


def over_cache(cache: Cache, positions_B: Tensor, length: int) -> Attend:
    """Attention of one new token per slot to what its slot holds, after storing the token's key and value there."""
    B = positions_B.shape[0]
    index = cache.index(torch.arange(B, device=positions_B.device), positions_B)
    blocked_B1L = torch.arange(length, device=positions_B.device) > positions_B[:, None, None]

    def attend(layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
        cache.write(layer, index, k_BKE, v_BKE)
        keys, values = cache.read(layer, B, length)
        _, H, E = q_BHE.shape
        q = (q_BHE * E**-0.5).view(B * cache.heads, -1, E)  # the heads that share a key are rows of one product
        scores = torch.bmm(q, keys.mT)
        scores.view(B, H, length).masked_fill_(blocked_B1L, -torch.inf)
        return torch.bmm(scores.softmax(-1), values).view(B, H, E)

    return attend


def chunks(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices in order of length, in runs that hold at most `limit` tokens when padded (or one index)."""
    run: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if run and (len(run) + 1) * lengths[i] > limit:
            yield run
            run = []
        run.append(i)
    if run:
        yield run


def doubled(n: int) -> int:
    """The next power of two, at least 16."""
    return max(16, 1 << (n - 1).bit_length())
