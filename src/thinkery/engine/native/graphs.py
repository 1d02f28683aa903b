"""Decoding on CUDA devices as recorded graphs: one launch for a step instead of one for every small operation.

A step is recorded once for every padded number of rows and padded length. What it reads and writes never moves: tokens,
positions, hidden states, and a cache with room for every row at its longest, in which rows hold their whole texts, also
those that share a prompt. Weights may change, because they change in place.

Not run on a GPU yet. On a CPU a "graph" is the step itself, over the same buffers; the tests use that.

Shapes: B rows, D width, L positions, H query heads, K key/value heads, M = H / K, E head width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thinkery.engine.native.blocks import BLOCK
from thinkery.engine.native.cache import Cache
from thinkery.engine.native.runner import CachedRunner, Reading, fill
from thinkery.engine.native.scheduler import Moves, Room
from thinkery.engine.native.sequence import Sample
from thinkery.model.attention import Attend
from thinkery.model.transformer import Transformer

SHORTEST = 256
"""Positions of the shortest step that is recorded."""

WARM_UP = 3
"""Times a step is run before it is recorded, because libraries set themselves up on first use."""

Replay = Callable[[], object]


class GraphRunner(CachedRunner):
    """A `CachedRunner` whose decoding steps have a few fixed shapes and addresses."""

    def __init__(self, network: Transformer, max_rows: int, max_length: int, memory: int) -> None:
        super().__init__(network, max_rows, memory)
        self.decoder, self.max_length = network, max_length
        self.own.resize(max_rows, max_length)
        self.room_for_known = self.cache_tokens - self.own.tokens
        self.cache_tokens = sys.maxsize  # every row has its room
        self.tokens_B = torch.zeros(max_rows, dtype=torch.int64, device=self.device)
        self.positions_B = torch.zeros(max_rows, dtype=torch.int64, device=self.device)
        self.hidden_BD = torch.zeros(max_rows, network.shape.hidden_size, dtype=self.dtype, device=self.device)
        self.graphs: dict[tuple[int, int], Replay] = {}
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    @property
    def spare(self) -> int:
        """What rows do not take."""
        return self.room_for_known

    def make_room(self, room: Room, unplaced: int) -> None:
        """All the room there is was made at the start."""
        self.blocks.shrink(self.spare - unplaced)

    def place(self, readings: Sequence[Reading], rows: Sequence[Sample], first: int) -> None:
        """Write whole texts into the rows' slots."""
        fill(self.own, [(slot, reading.kv_XITKE) for slot, reading in enumerate(readings, first)])

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """Feed every row its last token, and idle rows token 0 at the beginning of their slots."""
        count, idle = len(rows), padded(len(rows), 1, self.max_rows) - len(rows)
        tokens, positions = [row.tokens[-1] for row in rows], [row.length - 1 for row in rows]
        self.tokens_B[: count + idle] = torch.tensor(tokens + [0] * idle)
        self.positions_B[: count + idle] = torch.tensor(positions + [0] * idle)
        size = (count + idle, padded(max(positions) + 1, SHORTEST, self.max_length))
        if size not in self.graphs:
            self.graphs[size] = recorded_step(partial(self.step, *size), self.device, self.pool)
        self.graphs[size]()
        return self.hidden_BD[:count].clone()

    def step(self, rows: int, length: int) -> None:
        """What is recorded: the first rows, which see the first positions."""
        positions_B = self.positions_B[:rows]
        attend = over_first(self.own, positions_B, length)
        self.hidden_BD[:rows] = self.decoder(self.tokens_B[:rows], positions_B, attend)

    def remember(self, slot: int, row: Sample) -> None:
        """Blocks that end in what the row said; its last token was never fed."""
        text, first = row.text[:-1], len(row.prompt.tokens) // BLOCK
        if len(text) >= (first + 1) * BLOCK:
            kv_XITKE = self.own.text(slot, first * BLOCK, len(text))
            self.blocks.keep(text, row.prompt.request.salt, kv_XITKE, first)

    def move(self, rows: Moves, shares: Moves) -> None:
        """Copy whole slots; shares have none."""
        self.own.move(*rows)

    def clear(self) -> None:
        """The room is the same at all times."""


def padded(need: int, least: int, most: int) -> int:
    """The next power of two from `least` on, or `most`."""
    return min(most, max(least, 1 << (need - 1).bit_length()))


def over_first(cache: Cache, positions_B: Tensor, length: int) -> Attend:
    """Attention of one new token per slot, stored at `positions_B`, to the first positions of each."""
    B = positions_B.shape[0]
    rows_B = torch.arange(B, device=positions_B.device)
    seen_B11L = (torch.arange(length, device=positions_B.device) <= positions_B[:, None])[:, None, None]

    def attend(layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
        cache.write(layer, rows_B, positions_B, k_BKE, v_BKE)
        keys_BKLE, values_BKLE = cache.keys[layer][:B, :, :length], cache.values[layer][:B, :, :length]
        q_BKME = q_BHE.unflatten(1, (cache.heads, -1))  # heads that share keys are queries beside each other
        return F.scaled_dot_product_attention(q_BKME, keys_BKLE, values_BKLE, attn_mask=seen_B11L).reshape(q_BHE.shape)

    return attend


def recorded_step(step: Replay, device: torch.device, pool: Any = None) -> Replay:
    """What does a step again: the replay of its recording on a CUDA device, elsewhere the step.

    Recordings with the same `pool` share the memory of what they compute in between: never replay two at once.
    """
    if device.type != "cuda":
        return step
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # judges in other threads may allocate
        step()
    return graph.replay
