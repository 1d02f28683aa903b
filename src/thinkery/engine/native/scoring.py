"""What a model thinks of a text that is given: the log-probability of every token after those before it.

A long text takes several passes, between which an engine can do other work.

Shapes: T tokens, D width, V vocabulary, N alternatives; X = 2 (keys, values), I layers, K key/value heads, E width of
a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thinkery.engine.native.engine import NativeEngine
from thinkery.engine.native.packed import PackedTransformer
from thinkery.engine.native.runner import CachedRunner, buffer, hidden_of_parts
from thinkery.model.transformer import Transformer

ROWS = 512
"""Tokens whose logits are held at once."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One token of a text: its log-probability, and the likeliest tokens in its place."""

    logprob: float
    alternatives: tuple[tuple[int, float], ...]


class TextScore:
    """The work on one text: `advance` until `complete`. Nothing is reused of earlier texts, but prompts of the same
    salt that come later may reuse this one. Until it is complete it takes memory beside the engine's."""

    def __init__(self, engine: NativeEngine, text: Sequence[int], salt: str, alternatives: int) -> None:
        self.engine, self.text, self.salt, self.alternatives = engine, text, salt, alternatives
        self.network: Any = engine.network
        self.done, self.needed = 0, max(0, len(text) - 1)
        """Tokens that are computed, and that have to be: nothing comes after the last."""
        self.kv_XITKE = torch.empty(0)

    @property
    def complete(self) -> bool:
        """Whether every token is scored."""
        return self.done == self.needed

    @torch.inference_mode()
    def advance(self, most: int) -> list[Scored]:
        """Compute at most so many more tokens, or all where the network has no cache of ours; returns the scores, under
        softmax(logits), of those that follow them: all but the first token of a text, which nothing comes before."""
        network, begin = self.network, self.done
        if isinstance(network, Transformer | PackedTransformer):
            self.done = min(self.needed, begin + most)
            hidden_TD = self.hidden_of_part(network, begin)
        else:
            self.done = self.needed
            tokens_T = torch.tensor(self.text[: self.needed], device=next(network.parameters()).device)
            hidden_TD = network.packed(tokens_T, [self.needed])
        return self.scores(hidden_TD, self.text[begin + 1 : self.done + 1])

    def hidden_of_part(self, network: Transformer | PackedTransformer, begin: int) -> Tensor:
        """hidden_TD of the tokens from `begin` to what is `done` now."""
        if not begin:
            self.kv_XITKE = buffer(network, self.needed)
        part = (self.kv_XITKE, begin, self.done)
        hidden_TD = hidden_of_parts(network, self.text[begin : self.done], [part])
        if self.complete and isinstance(runner := self.engine.runner, CachedRunner):
            runner.keep(self.text[: self.needed], self.salt, self.kv_XITKE, self.engine.unplaced)
        return hidden_TD

    def scores(self, hidden_TD: Tensor, tokens: Sequence[int]) -> list[Scored]:
        """Each token's score at the hidden state before it."""
        found: list[Scored] = []
        next_T = torch.tensor(tokens, device=hidden_TD.device)
        for some_TD, some_T in zip(hidden_TD.split(ROWS), next_T.split(ROWS), strict=True):
            logprobs_TV = self.network.logits(some_TD).float().log_softmax(-1)
            said = logprobs_TV.gather(1, some_T[:, None])[:, 0].tolist()
            values_TN, ids_TN = logprobs_TV.topk(min(self.alternatives, logprobs_TV.shape[1]))
            likeliest = [
                tuple(zip(ids, values, strict=True))
                for ids, values in zip(ids_TN.tolist(), values_TN.tolist(), strict=True)
            ]
            found += [Scored(*pair) for pair in zip(said, likeliest, strict=True)]
        return found
