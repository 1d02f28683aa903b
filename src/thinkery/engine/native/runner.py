"""The network over the cache: prompts many at once, then one token of every running sample.

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
from thinkery.engine.native.kernels import Compiled
from thinkery.engine.native.packed import PackedTransformer
from thinkery.engine.native.scheduler import Moves, Room
from thinkery.engine.native.sequence import Sample
from thinkery.model.attention import Attend, packed_causal
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


class Sampled(Protocol):
    """The network that is sampled from: a `Network`, or a copy in another layout."""

    def logits(self, hidden_TD: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Prefix:
    """A text's hidden state at its last token, and its keys and values in every layer, empty where none are kept."""

    hidden_D: Tensor
    kv_XITKE: Tensor = field(default_factory=partial(torch.empty, 0))
    known: int = 0
    """How many of its tokens were not computed for it."""


class Runner(Protocol):
    """Computes hidden states for the rows of a batch; what it remembers of row i it keeps in slot i."""

    cache_tokens: int
    """How many tokens of everything in flight there is memory for."""

    def make_room(self, room: Room) -> None:
        """Hold a batch that takes so much, which is known to fit."""
        ...

    def fresh(self, text: Sequence[int], salt: str) -> int:
        """How many tokens of a text are not known yet."""
        ...

    def prefixes(self, texts: Sequence[Sequence[int]], salts: Sequence[str]) -> list[Prefix]:
        """The work on each text, to be placed for any number of samples."""
        ...

    def place(self, prefixes: Sequence[Prefix], rows: Sequence[Sample], first: int) -> None:
        """Remember prefix i for row i; the rows stand in slots from `first` on."""
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

    def make_room(self, room: Room) -> None:
        """Slots double, so that copies are rare; their length fits what is read, because every step reads it whole."""
        prompts, own = self.prompts, self.own
        have = Room(prompts.slots, prompts.capacity, own.slots, own.capacity)
        wanted = Room(
            grown(have.shares, room.shares, self.max_rows),
            fitted(have.prompt, room.prompt),
            grown(have.rows, room.rows, self.max_rows),
            fitted(have.own, room.own),
        )
        if wanted.tokens > self.cache_tokens:
            wanted = room
        self.blocks.shrink(self.cache_tokens - wanted.tokens)
        if wanted != have:
            prompts.resize(wanted.shares, wanted.prompt)
            own.resize(wanted.rows, wanted.own)

    def fresh(self, text: Sequence[int], salt: str) -> int:
        """How many tokens of a text are not known yet."""
        return len(text) - self.blocks.known(text, salt)

    def prefixes(self, texts: Sequence[Sequence[int]], salts: Sequence[str]) -> list[Prefix]:
        """Texts of similar length share a pass through the network; beginnings that are known are not computed."""
        pasts = [self.blocks.find(text, salt) for text, salt in zip(texts, salts, strict=True)]
        fresh = [len(text) - length_of(past) for text, past in zip(texts, pasts, strict=True)]
        found: dict[int, Prefix] = {}
        for numbers in chunks(fresh, PREFILL_TOKENS):
            found.update(zip(numbers, self.pass_of([(texts[i], pasts[i]) for i in numbers]), strict=True))
        for i, (text, salt) in enumerate(zip(texts, salts, strict=True)):
            self.blocks.keep(text, salt, found[i].kv_XITKE)
        self.blocks.shrink(self.cache_tokens - self.prompts.tokens - self.own.tokens)
        return [found[i] for i in range(len(texts))]

    def pass_of(self, texts: Sequence[tuple[Sequence[int], Tensor | None]]) -> list[Prefix]:
        """One causal pass over what follows the known beginnings."""
        pasts, starts = [past for _, past in texts], [length_of(past) for _, past in texts]
        lengths = [len(text) - start for (text, _), start in zip(texts, starts, strict=True)]
        tokens = [token for (text, _), start in zip(texts, starts, strict=True) for token in text[start:]]
        places = [place for (text, _), start in zip(texts, starts, strict=True) for place in range(start, len(text))]
        attend = after(pasts, lengths) if any(starts) else packed_causal(lengths, self.device)
        hidden_TD, kv_XITKE = recorded(self.network, tokens, places, attend)
        lasts = torch.tensor(lengths).cumsum(0) - 1
        parts = kv_XITKE.split(lengths, dim=2)
        whole = [
            part if past is None else torch.cat((past, part), dim=2) for past, part in zip(pasts, parts, strict=True)
        ]
        return [Prefix(*parts) for parts in zip(hidden_TD[lasts.to(self.device)], whole, starts, strict=True)]

    def place(self, prefixes: Sequence[Prefix], rows: Sequence[Sample], first: int) -> None:
        """Write prompts where their shares are, and what rows said to their own slots."""
        shares, own = [], []
        for slot, (prefix, row) in enumerate(zip(prefixes, rows, strict=True), first):
            n, share = row.shared, row.share
            assert share is not None
            if n and not share.filled:
                share.filled = True
                shares.append((share.slot, prefix.kv_XITKE[:, :, :n]))
            if prefix.kv_XITKE.shape[2] > n:
                own.append((slot, prefix.kv_XITKE[:, :, n:]))
        fill(self.prompts, shares)
        fill(self.own, own)

    def decode(self, rows: Sequence[Sample]) -> Tensor:
        """Feed every row its last token."""
        tokens_B = torch.tensor([row.tokens[-1] for row in rows], device=self.device)
        own_B = torch.tensor([row.length - row.shared for row in rows], device=self.device)
        if isinstance(self.network, PackedTransformer) and isinstance(self.network.arithmetic, Compiled):
            slots_B = torch.tensor([row.share.slot if row.share else 0 for row in rows])
            shared_B = torch.tensor([row.shared for row in rows])
            attend = self.network.arithmetic.over_caches(self.prompts, self.own, slots_B, shared_B, own_B - 1)
            return self.network(tokens_B, shared_B + own_B - 1, attend)
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


def recorded(
    network: Transformer | PackedTransformer, tokens: Sequence[int], places: Sequence[int], attend: Attend
) -> tuple[Tensor, Tensor]:
    """hidden_TD, and the keys and values of every layer."""
    shape, (dtype, device) = network.shape, format_of(network)
    size = (2, shape.num_hidden_layers, len(tokens), shape.num_key_value_heads, shape.head_dim)
    kv_XITKE = torch.empty(size, dtype=dtype, device=device)

    def recording(layer: int, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
        kv_XITKE[0, layer], kv_XITKE[1, layer] = k_TKE, v_TKE
        return attend(layer, q_THE, k_TKE, v_TKE)

    return network(torch.tensor(tokens, device=device), torch.tensor(places, device=device), recording), kv_XITKE


def fill(cache: Cache, parts: Sequence[tuple[int, Tensor]]) -> None:
    """Write texts, given as (slot, kv_XITKE), from the beginning of their slots on."""
    if not parts:
        return
    lengths = torch.tensor([kv.shape[2] for _, kv in parts])
    slots_N = torch.tensor([slot for slot, _ in parts]).repeat_interleave(lengths)
    positions_N = torch.cat([torch.arange(n) for n in lengths.tolist()])
    keys_INKE, values_INKE = torch.cat([kv for _, kv in parts], dim=2)
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


def length_of(past: Tensor | None) -> int:
    """Tokens of a known beginning."""
    return 0 if past is None else past.shape[2]


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


def grown(have: int, need: int, most: int) -> int:
    """Slots for `need`: those there are where they suffice, else the next power of two, from 16 to `most`."""
    return have if need <= have else min(max(16, 1 << (need - 1).bit_length()), most)


def fitted(have: int, need: int) -> int:
    """Length for `need` tokens: what there is while at most a quarter is idle; growth is by an eighth at least."""
    if need > have:
        return max(need, have * 9 // 8)
    return have if 4 * need >= 3 * have else need
