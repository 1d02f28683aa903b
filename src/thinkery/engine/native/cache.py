"""Keys and values of everything in flight, in slots: one slot holds one prompt, or what one sample has said.

Shapes: S slots, K key/value heads, E head width, C capacity in tokens; N rows written, T tokens of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinkery.model.transformer import Shape


class Cache:
    """Per layer keys_SKEC and values_SKEC, so that decoding reads views and copies nothing.

    Positions are the last dimension: products of few queries with many keys run along contiguous memory that way,
    which is twice as fast on a CPU.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.heads = shape.num_key_value_heads
        empty = [torch.zeros(0, self.heads, shape.head_dim, 0, dtype=dtype, device=device)]
        self.keys: list[Tensor] = empty * shape.num_hidden_layers
        self.values: list[Tensor] = empty * shape.num_hidden_layers

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        """How many tokens each slot has room for."""
        return self.keys[0].shape[3]

    @property
    def tokens(self) -> int:
        """How many tokens all slots have room for."""
        return self.slots * self.capacity

    def resize(self, slots: int, capacity: int) -> None:
        """Change the room, layer by layer so that little is held twice; what fits is kept."""
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                # zeros, because masked positions are multiplied by 0 and must not be NaN
                new = old.new_zeros(slots, *old.shape[1:3], capacity)
                s, c = min(slots, old.shape[0]), min(capacity, old.shape[3])
                new[:s, :, :, :c] = old[:s, :, :, :c]
                store[layer] = new

    def write(self, layer: int, slots_N: Tensor, positions_N: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> None:
        """Store keys and values, row n at `positions_N[n]` of slot `slots_N[n]`."""
        self.keys[layer][slots_N, :, :, positions_N] = k_NKE
        self.values[layer][slots_N, :, :, positions_N] = v_NKE

    def read(self, layer: int, slots: int, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` keys and values of the first slots, as views [slots·K, E, length]."""
        keys, values = self.keys[layer], self.values[layer]
        return keys[:slots].flatten(0, 1)[:, :, :length], values[:slots].flatten(0, 1)[:, :, :length]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy slots onto others."""
        if not sources:
            return
        device = self.keys[0].device
        sources_N, targets_N = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for store in (*self.keys, *self.values):
            store.index_copy_(0, targets_N, store.index_select(0, sources_N))
