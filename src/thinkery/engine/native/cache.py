"""Keys and values of everything in flight: one slot per running sample, slots and length growing by doubling.

Shapes: S slots, K key/value heads, C capacity in tokens, E head width; N rows written, T tokens of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinkery.model.transformer import Shape


class Cache:
    """Per layer keys_SKCE and values_SKCE; slots are rows of the batch, so decoding reads views and copies nothing."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.heads = shape.num_key_value_heads
        empty = [torch.zeros(0, self.heads, 0, shape.head_dim, dtype=dtype, device=device)]
        self.keys: list[Tensor] = empty * shape.num_hidden_layers
        self.values: list[Tensor] = empty * shape.num_hidden_layers

    @property
    def slots(self) -> int:
        """How many samples there is room for."""
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        """How many tokens each slot has room for."""
        return self.keys[0].shape[2]

    def resize(self, slots: int, capacity: int) -> None:
        """Change the room, layer by layer so that little is held twice; what fits is kept."""
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                # zeros, because masked positions are multiplied by 0 and must not be NaN
                new = old.new_zeros(slots, self.heads, capacity, old.shape[3])
                s, c = min(slots, old.shape[0]), min(capacity, old.shape[2])
                new[:s, :, :c] = old[:s, :, :c]
                store[layer] = new

    def index(self, slots_N: Tensor, positions_N: Tensor) -> Tensor:
        """Where (slot, head, position) lies in a layer flattened to [S·K·C, E], head by head: N·K."""
        heads_K = torch.arange(self.heads, device=slots_N.device)
        return ((slots_N[:, None] * self.heads + heads_K) * self.capacity + positions_N[:, None]).view(-1)

    def write(self, layer: int, index: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> None:
        """Store keys and values at `index`."""
        for store, x_NKE in ((self.keys[layer], k_NKE), (self.values[layer], v_NKE)):
            store.view(-1, store.shape[3]).index_copy_(0, index, x_NKE.reshape(-1, store.shape[3]))

    def read(self, layer: int, slots: int, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` keys and values of the first slots, as views [slots·K, length, E]."""
        keys, values = self.keys[layer], self.values[layer]
        return keys.flatten(0, 1)[: slots * self.heads, :length], values.flatten(0, 1)[: slots * self.heads, :length]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy slots onto others."""
        device = self.keys[0].device
        sources_N, targets_N = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for store in (*self.keys, *self.values):
            store.index_copy_(0, targets_N, store.index_select(0, sources_N))
