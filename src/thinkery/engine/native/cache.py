"""Keys and values of everything in flight, in slots: one slot holds one prompt, or what one sample has said.

Shapes: S slots, K key/value heads, E head width, C capacity in tokens; N rows written, T tokens of a text; X = 2 (keys,
values), I layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinkery.model.transformer import Shape


class Cache:
    """Per layer keys_SKCE and values_SKCE.

    Decoding reads slots whole, as views: a product of a part of them would copy it first, so room is kept small.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.heads = shape.num_key_value_heads
        empty = [torch.zeros(0, self.heads, 0, shape.head_dim, dtype=dtype, device=device)]
        self.keys: list[Tensor] = empty * shape.num_hidden_layers
        self.values: list[Tensor] = empty * shape.num_hidden_layers
        self.made = 0
        """How often it was made anew, somewhere else in memory."""

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return self.keys[0].shape[0]

    @property
    def capacity(self) -> int:
        """How many tokens each slot has room for."""
        return self.keys[0].shape[2]

    @property
    def tokens(self) -> int:
        """How many tokens all slots have room for."""
        return self.slots * self.capacity

    def resize(self, slots: int, capacity: int) -> None:
        """Change the room, layer by layer so that little is held twice; what fits is kept."""
        if (slots, capacity) == (self.slots, self.capacity):
            return
        self.made += 1
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                # zeros, because masked positions are multiplied by 0 and must not be NaN
                new = old.new_zeros(slots, self.heads, capacity, old.shape[3])
                s, c = min(slots, old.shape[0]), min(capacity, old.shape[2])
                new[:s, :, :c] = old[:s, :, :c]
                store[layer] = new

    def write(self, layer: int, slots_N: Tensor, positions_N: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> None:
        """Store keys and values, row n at `positions_N[n]` of slot `slots_N[n]`."""
        self.keys[layer][slots_N, :, positions_N] = k_NKE
        self.values[layer][slots_N, :, positions_N] = v_NKE

    def write_text(self, slot: int, kv_XITKE: Tensor) -> None:
        """Store a text's keys and values from the beginning of a slot on."""
        n = kv_XITKE.shape[2]
        for store, parts_ITKE in zip((self.keys, self.values), kv_XITKE, strict=True):
            for layer, x_TKE in zip(store, parts_ITKE, strict=True):
                layer[slot, :, :n] = x_TKE.transpose(0, 1)

    def read(self, layer: int, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first slots, as views [slots·K, C, E]."""
        return self.keys[layer][:slots].flatten(0, 1), self.values[layer][:slots].flatten(0, 1)

    def text(self, slot: int, begin: int, end: int) -> Tensor:
        """kv_XITKE of some of the tokens in a slot."""
        parts = [torch.stack([layer[slot, :, begin:end] for layer in store]) for store in (self.keys, self.values)]
        return torch.stack(parts).transpose(2, 3)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy slots onto others."""
        if not sources:
            return
        device = self.keys[0].device
        sources_N, targets_N = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for store in (*self.keys, *self.values):
            store.index_copy_(0, targets_N, store.index_select(0, sources_N))
