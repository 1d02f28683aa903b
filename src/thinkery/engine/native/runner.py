"""The network over the cache: prompts many at once or a part at a time, then one token of every running sample.

Shapes: B rows, T tokens of packed texts, D width, K key/value heads, E head width; X = 2 (keys, values), I layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from thinkery.engine.native.attention import Sharing, after, over_cache, over_prompts_and_own
from thinkery.engine.native.blocks import BLOCK, Blocks
from thinkery.engine.native.cache import Cache
from thinkery.engine.native.fused import Fused
from thinkery.engine.native.packed import PackedTransformer
from thinkery.engine.native.scheduler import Moves, Room
from thinkery.engine.native.sequence import Sample
from thinkery.model.attention import Attend, packed_causal
from thinkery.model.compiled import up
from thinkery.model.transformer import Shape, Transformer

PREFILL_TOKENS = 8192
"""Tokens that whole texts may have when they go through the network together, padded to the longest of them."""


STEP = 32
"""Tokens by which the room for texts grows at least."""

LONG = 512
"""Tokens from which on a text is copied by itself, and room is not made for texts that may come."""


class Network(Protocol):
    """What sampling needs of a language model: our Transformer and `model.adapter.Adapted` have it."""

    shape: Shape

    def packed(self, tokens_T: Tensor, lengths: Sequence[int]) -> Tensor: ...

    def logits(self, hidden_TD: Tensor) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class Sampled(Protocol):
    """The network that is sampled from: a `Network`, or a copy in another layout."""

    def logits(self, hidden_TD: Tensor) -> Tensor: ...


@dataclass(slots=True, eq=False)
class Reading:
    """The work on a text, which may take several passes, a part of the text in each."""

    text: Sequence[int]
    salt: str
    known: int = 0
    """How many of its first tokens were not computed for it."""
    done: int = 0
    """Tokens that are computed."""
    end: int = 0
    """How many it will be after the next pass."""
    hidden_D: Tensor = field(default_factory=partial(torch.empty, 0))
    """Hidden state at the last token that is computed."""
    kv_XITKE: Tensor = field(default_factory=partial(torch.empty, 0))
    """Keys and values in every layer, empty where none are kept; of tokens that are not computed yet, anything."""
    beginning: Sequence[Tensor] = ()
    """Those of the known tokens, block by block, until they are copied."""

    @property
    def missing(self) -> int:
        """Tokens that the next pass leaves to later ones."""
        return len(self.text) - self.end


class Runner(Protocol):
    """Computes hidden states for the rows of a batch; what it remembers of row i it keeps in slot i."""

    cache_tokens: int
    """How many tokens of everything in flight there is memory for."""

    def make_room(self, room: Room, unplaced: int) -> None:
        """Hold a batch that takes so much, which is known to fit, beside so many tokens of a text that is half read."""
        ...

    def open(self, text: Sequence[int], salt: str) -> Reading:
        """The work on a text before anything is computed for it."""
        ...

    def will_know(self, reading: Reading, readings: Sequence[Reading]) -> bool:
        """Whether more of a text's beginning is known once these, which are complete after the next pass, are read."""
        ...

    def portion(self, reading: Reading, tokens: int) -> int:
        """How many more tokens of a text one step takes, where it should compute at most so many."""
        ...

    def read(self, readings: Sequence[Reading]) -> None:
        """Compute each text up to its `end`; what is complete can be placed for any number of samples."""
        ...

    def place(self, readings: Sequence[Reading], rows: Sequence[Sample], first: int) -> None:
        """Remember text i for row i; the rows stand in slots from `first` on."""
        ...

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """hidden_BD at the last token of every row."""
        ...

    def remember(self, slot: int, row: Sample) -> None:
        """Keep what was computed of a row that has ended, for prompts that begin with it."""
        ...

    def padded(self, rows: int) -> int:
        """How many rows to compute logits for, so that shapes are what this runner promises."""
        ...

    def move(self, rows: Moves, shares: Moves) -> None:
        """Copy what is remembered from slots to others."""
        ...

    def forget(self) -> None:
        """Drop what was computed under old weights and belongs to nothing in flight."""
        ...

    def clear(self) -> None:
        """Nothing is in flight: what comes is computed in the shapes, and so to the last bit, of a new engine."""
        ...


class CachedRunner:
    """Runs our decoder over a cache of at most `memory` bytes: prompts of several samples in one place, what rows have
    for themselves in another."""

    def __init__(self, network: Transformer | PackedTransformer, max_rows: int, memory: int) -> None:
        self.network, self.max_rows = network, max_rows
        self.dtype, self.device = format_of(network)
        self.prompts = Cache(network.shape, self.dtype, self.device)
        self.own = Cache(network.shape, self.dtype, self.device)
        self.blocks = Blocks()
        self.cache_tokens = memory // token_bytes(network.shape, self.dtype)
        self.sharing: tuple[tuple[list[tuple[int, int]], int], Sharing] | None = None

    @property
    def spare(self) -> int:
        """Tokens for which there is memory beside the room of what is in flight."""
        return self.cache_tokens - self.prompts.tokens - self.own.tokens

    @property
    def fused(self) -> Fused | None:
        """The network's layers in one call, where they are compiled."""
        return fused_of(self.network)

    def make_room(self, room: Room, unplaced: int) -> None:
        """Slots double while they are short, so that copies are rare; their length fits what is read."""
        prompts, own = self.prompts, self.own
        have = Room(prompts.slots, prompts.capacity, own.slots, own.capacity)
        prompt, text = fitted(have.prompt, room.prompt), fitted(have.own, room.own)
        wanted = Room(
            grown(have.shares, room.shares, self.max_rows, prompt), prompt,
            grown(have.rows, room.rows, self.max_rows, text), text,
        )  # fmt: skip
        if wanted.tokens > self.cache_tokens:
            wanted = room
        self.blocks.shrink(self.cache_tokens - wanted.tokens - unplaced)
        prompts.resize(wanted.shares, wanted.prompt)
        own.resize(wanted.rows, wanted.own)

    def open(self, text: Sequence[int], salt: str) -> Reading:
        """Beginnings that are known are not computed."""
        blocks = self.blocks.find(text, salt)
        known = BLOCK * len(blocks)
        return Reading(text, salt, known, known, known, beginning=blocks)

    def will_know(self, reading: Reading, readings: Sequence[Reading]) -> bool:
        """Whether one of them has the next block too."""
        end = reading.known + BLOCK
        return end < len(reading.text) and any(
            other.salt == reading.salt and tuple(other.text[:end]) == tuple(reading.text[:end]) for other in readings
        )

    def portion(self, reading: Reading, tokens: int) -> int:
        """Any number of tokens is as good as any other."""
        return min(reading.missing, max(0, tokens))

    def read(self, readings: Sequence[Reading]) -> None:
        """Whole texts of similar length share a pass; parts of texts, and what follows known beginnings, share one."""
        whole = [reading for reading in readings if not reading.done and not reading.missing]
        parts = [reading for reading in readings if reading.done or reading.missing]
        for numbers in chunks([reading.end for reading in whole], PREFILL_TOKENS):
            self.pass_whole([whole[i] for i in numbers])
        if parts:
            self.pass_parts(parts)
        unplaced = sum(len(reading.text) for reading in readings if reading.missing)
        for reading in readings:
            if not reading.missing:
                self.blocks.keep(reading.text, reading.salt, reading.kv_XITKE)
        self.blocks.shrink(self.spare - unplaced)

    def pass_whole(self, readings: Sequence[Reading]) -> None:
        """One causal pass over texts from their beginning to their end."""
        lengths = [reading.end for reading in readings]
        tokens = [token for reading in readings for token in reading.text]
        if fused := self.fused:
            kv_XITKE = places_for(self.network, len(tokens))
            parts = [(kv, 0, n) for kv, n in zip(kv_XITKE.split(lengths, dim=2), lengths, strict=True)]
            hidden_TD = fused.advance(tokens, parts)
        else:
            places = [place for n in lengths for place in range(n)]
            hidden_TD, kv_XITKE = recorded(self.network, tokens, places, packed_causal(lengths, self.device))
        for reading, kv in zip(readings, kv_XITKE.split(lengths, dim=2), strict=True):
            reading.kv_XITKE = kv
        advanced(readings, hidden_TD)

    def pass_parts(self, readings: Sequence[Reading]) -> None:
        """One pass over the next part of each text, which sees what is before it."""
        for reading in readings:
            if not reading.kv_XITKE.numel():
                self.make_buffer(reading)
        tokens = [token for reading in readings for token in reading.text[reading.done : reading.end]]
        parts = [(reading.kv_XITKE, reading.done, reading.end) for reading in readings]
        advanced(readings, hidden_of_parts(self.network, tokens, parts))

    def make_buffer(self, reading: Reading) -> None:
        """Room for a whole text's keys and values, each head's in one piece, with those that are known."""
        n = len(reading.text)
        self.blocks.shrink(self.spare - n)
        reading.kv_XITKE = buffer(self.network, n)
        for number, block in enumerate(reading.beginning):
            reading.kv_XITKE[:, :, number * BLOCK : (number + 1) * BLOCK] = block
        reading.beginning = ()

    def place(self, readings: Sequence[Reading], rows: Sequence[Sample], first: int) -> None:
        """Write prompts where their shares are, and what rows said to their own slots."""
        shares, own = [], []
        for slot, (reading, row) in enumerate(zip(readings, rows, strict=True), first):
            n, share = row.shared, row.share
            assert share is not None
            if n and not share.filled:
                share.filled = True
                shares.append((share.slot, reading.kv_XITKE[:, :, :n]))
            if len(reading.text) > n:
                own.append((slot, reading.kv_XITKE[:, :, n:]))
        fill(self.prompts, shares)
        fill(self.own, own)

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """Feed every row its last token."""
        if fused := self.fused:
            return fused.decode(rows, self.prompts, self.own)
        tokens_B = torch.tensor([row.tokens[-1] for row in rows], device=self.device)
        own_B = torch.tensor([row.length - row.shared for row in rows], device=self.device)
        if not any(row.shared for row in rows):
            return self.network(tokens_B, own_B - 1, over_cache(self.own, own_B - 1))
        sharing = self.sharing_of(rows)
        attend = over_prompts_and_own(self.prompts, self.own, sharing, own_B - 1)
        return self.network(tokens_B, sharing.lengths_B + own_B - 1, attend)

    def sharing_of(self, rows: Sequence[Sample]) -> Sharing:
        """Which rows read which share; computed again when that has changed."""
        read = [(row.share.slot, row.shared) for row in rows if row.share]
        known = (read, self.prompts.capacity)
        if self.sharing is None or self.sharing[0] != known:
            self.sharing = known, Sharing.of(*known, self.own.heads, self.device)
        return self.sharing[1]

    def remember(self, slot: int, row: Sample) -> None:
        """Blocks that end in what the row said; its last token was never fed."""
        share, n, text = row.share, row.shared, row.text[:-1]
        assert share is not None
        first = len(row.prompt.tokens) // BLOCK
        if len(text) < (first + 1) * BLOCK:
            return
        begin = first * BLOCK
        own = self.own.text(slot, max(0, begin - n), len(text) - n)
        kv_XITKE = torch.cat((self.prompts.text(share.slot, begin, n), own), dim=2) if begin < n else own
        self.blocks.keep(text, row.prompt.request.salt, kv_XITKE, first)

    def keep(self, text: Sequence[int], salt: str, kv_XITKE: Tensor, unplaced: int) -> None:
        """Remember a text of which keys and values were computed without a row, within the memory that there is beside
        so many tokens of a text that is half read."""
        self.blocks.keep(text, salt, kv_XITKE)
        self.blocks.shrink(self.spare - unplaced)

    def padded(self, rows: int) -> int:
        """No padding."""
        return rows

    def move(self, rows: Moves, shares: Moves) -> None:
        """Copy whole slots."""
        self.own.move(*rows)
        self.prompts.move(*shares)

    def forget(self) -> None:
        """Drop the known beginnings."""
        self.blocks.shrink(0)

    def clear(self) -> None:
        """Give the room back."""
        self.prompts.resize(0, 0)
        self.own.resize(0, 0)


def fused_of(network: Transformer | PackedTransformer) -> Fused | None:
    """A network's layers in one call, where they are compiled."""
    return network.fused if isinstance(network, PackedTransformer) else None


def hidden_of_parts(
    network: Transformer | PackedTransformer, tokens: Sequence[int], parts: Sequence[tuple[Tensor, int, int]]
) -> Tensor:
    """hidden_TD of tokens `done` to `end` of several texts laid end to end, given as (kv_XITKE, done, end), into which
    their keys and values are written."""
    if fused := fused_of(network):
        return fused.advance(tokens, parts)
    places, device = [place for _, done, end in parts for place in range(done, end)], format_of(network)[1]
    tokens_T, places_T = (torch.tensor(x, device=device) for x in (tokens, places))
    return network(tokens_T, places_T, after(parts))


def recorded(
    network: Transformer | PackedTransformer, tokens: Sequence[int], places: Sequence[int], attend: Attend
) -> tuple[Tensor, Tensor]:
    """hidden_TD, and the keys and values of every layer."""
    kv_XITKE, device = places_for(network, len(tokens)), format_of(network)[1]

    def recording(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
        kv_XITKE[0, layer], kv_XITKE[1, layer] = k_TKE, v_TKE
        return attend(layer, q_THE, k_TKE, v_TKE)

    return network(torch.tensor(tokens, device=device), torch.tensor(places, device=device), recording), kv_XITKE


def places_for(network: Transformer | PackedTransformer, tokens: int) -> Tensor:
    """Room for keys and values kv_XITKE of so many tokens, those of one token side by side."""
    shape, (dtype, device) = network.shape, format_of(network)
    size = (2, shape.num_hidden_layers, tokens, shape.num_key_value_heads, shape.head_dim)
    return torch.empty(size, dtype=dtype, device=device)


def buffer(network: Transformer | PackedTransformer, tokens: int) -> Tensor:
    """Room for keys and values kv_XITKE of so many tokens, those of one head side by side."""
    shape, (dtype, device) = network.shape, format_of(network)
    size = (2, shape.num_hidden_layers, shape.num_key_value_heads, tokens, shape.head_dim)
    return torch.empty(size, dtype=dtype, device=device).transpose(2, 3)


def advanced(readings: Sequence[Reading], hidden_TD: Tensor) -> None:
    """Note that each text is computed up to its end; the hidden states are those of the new tokens."""
    lasts = torch.tensor([reading.end - reading.done for reading in readings]).cumsum(0) - 1
    for reading, hidden_D in zip(readings, hidden_TD[lasts.to(hidden_TD.device)], strict=True):
        reading.hidden_D, reading.done = hidden_D, reading.end


def fill(cache: Cache, parts: Sequence[tuple[int, Tensor]]) -> None:
    """Write texts, given as (slot, kv_XITKE), from the beginning of their slots on; short ones together."""
    for slot, kv_XITKE in parts:
        if kv_XITKE.shape[2] >= LONG:
            cache.write_text(slot, kv_XITKE)
    short = [(slot, kv) for slot, kv in parts if kv.shape[2] < LONG]
    if not short:
        return
    lengths = torch.tensor([kv.shape[2] for _, kv in short])
    slots_N = torch.tensor([slot for slot, _ in short]).repeat_interleave(lengths)
    positions_N = torch.cat([torch.arange(n) for n in lengths.tolist()])
    keys_INKE, values_INKE = torch.cat([kv for _, kv in short], dim=2)
    slots_N, positions_N = slots_N.to(keys_INKE.device), positions_N.to(keys_INKE.device)
    for layer, (k_NKE, v_NKE) in enumerate(zip(keys_INKE, values_INKE, strict=True)):
        cache.write(layer, slots_N, positions_N, k_NKE, v_NKE)


def format_of(network: Transformer | PackedTransformer) -> tuple[torch.dtype, torch.device]:
    """Number format of keys and values, and where they are."""
    if isinstance(network, PackedTransformer):
        return network.dtype, torch.device("cpu")
    return network.lm_head.weight.dtype, network.lm_head.weight.device


def token_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Cache memory of one token."""
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * dtype.itemsize


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


def grown(have: int, need: int, most: int, length: int) -> int:
    """Slots for `need`: those there are where they suffice, else the next power of two; at least 16 where they are
    short, and at most four times as many as are needed where they are long."""
    if need <= have and (length < LONG or have < 4 * need):
        return have
    return min(max(16 if length < LONG else 1, 1 << (need - 1).bit_length() if need else 0), most)


def fitted(have: int, need: int) -> int:
    """Length for `need` tokens: what there is while at most a quarter is idle; growth is by an eighth at least."""
    if need > have:
        return up(max(need, have * 9 // 8), STEP)
    return have if 4 * need >= 3 * have else up(need, STEP)
